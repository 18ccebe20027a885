"""MLflow and Prefect: do their servers answer, are their databases sound, and are the versions those of here?"""

import base64
import http.client
import os
import sqlite3
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flows.doctor.connections import TIMEOUT_SECONDS, unreachable
from flows.doctor.finding import Finding, fault, ok, warning

if TYPE_CHECKING:
    from conf.schema import ProjectConfig
    from flows.adapters.databases import Owner, SchemaAge

# SQLite reads some 500 MB a second; a larger database is not read through.
_CHECKED_BYTES = 200_000_000


def mlflow(config: "ProjectConfig") -> Finding:
    """Whether runs and models can be recorded."""
    from flows.adapters.mlflow_connection import Connection

    connection = Connection(config.tracking)
    if connection.uri.startswith("http"):
        return _server(
            "MLflow", connection.address, "/health", "/version", "lacewing up, or tracking.uri= another address"
        )
    if connection.database_file:
        return _database("mlflow", connection.database_file)
    parts = urlsplit(connection.uri)
    ports = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
    port = parts.port or ports.get(parts.scheme.partition("+")[0])
    if parts.hostname and port and (error := unreachable(parts.hostname, port)):
        return fault(f"{connection.address} does not answer ({error})", "start the database, or tracking.uri=...")
    return ok(connection.address)


def prefect() -> Finding:
    """Whether the configured server answers and is of the client's version."""
    from flows.adapters.prefect_server import API_URL, server_is_chosen
    from flows.addresses import running

    if not server_is_chosen():
        address = running("prefect")
        return ok(f"that of `lacewing up`, {address}" if address else "none is configured: a flow brings its own")
    address = os.environ.get(API_URL) or _profile_address()
    if not address:
        return ok("one of Prefect's files (prefect.toml, .env, pyproject.toml) or variables decides about the server")
    return _server("Prefect", address, "/health", "/admin/version", f"unset {API_URL}, or start the server there")


def prefect_database() -> Finding:
    """Whether the history of the flows can be opened."""
    return _database("prefect", prefect_file())


def prefect_file() -> Path:
    return Path(os.environ["PREFECT_HOME"]) / "prefect.db"


def _database(owner: "Owner", path: Path) -> Finding:
    from flows.adapters.databases import damage, schema_age

    if not path.exists():
        return ok(f"{path}, which is made when a flow runs")
    aside = _aside(owner, path)
    try:
        age = schema_age(path, owner)
        fault_found = damage(path) if path.stat().st_size < _CHECKED_BYTES else ""
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            return fault(f"{path} cannot be opened ({error})", f"chmod u+rw {path}, or {aside}")
        return warning(f"{path} is locked by another program", f"fuser -v {path} shows which")
    except sqlite3.DatabaseError as error:
        return fault(f"{path} is damaged ({error})", aside)
    if fault_found:
        return fault(f"{path} is damaged ({fault_found})", aside)
    return _of_age(age, owner, path)


def _aside(owner: "Owner", path: Path) -> str:
    """How to begin a new database; MLflow's is filled again from the folders of the workspace."""
    return f"mv {path} {path}.damaged" + (" && lacewing sync" if owner == "mlflow" else "")


def _of_age(age: "SchemaAge", owner: "Owner", path: Path) -> Finding:
    version = metadata.version(owner)
    if age == "unknown":
        return fault(
            f"{path} was made by a newer {owner} than {version}, which cannot read it",
            f"pip install --upgrade {owner}, as far as lacewing allows, or mv {path} {path}.newer",
        )
    if age == "incomplete":
        return warning(
            f"{path}: a migration of it broke off", "lacewing sync" if owner == "mlflow" else _aside(owner, path)
        )
    return ok(f"{path}{', which the next flow migrates' if age == 'older' else ''}")


def _server(name: str, address: str, health: str, version: str, remedy: str) -> Finding:
    address = address.rstrip("/")
    try:
        _get(address + health)
        theirs = _get(address + version).strip().strip('"')
    except urllib.error.HTTPError as error:
        return _refused(name, address, error.code, remedy)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return fault(f"{name} at {address} does not answer ({getattr(error, 'reason', error)})", remedy)
    return _of_version(name, address, theirs)


def _refused(name: str, address: str, status: int, remedy: str) -> Finding:
    host = urlsplit(address).hostname or ""
    if status == 401:
        given = "PREFECT_API_AUTH_STRING=user:password"
        if name == "MLflow":
            given = "MLFLOW_TRACKING_USERNAME=user MLFLOW_TRACKING_PASSWORD=password"
        return fault(f"{address} asks for a user and a password (status 401)", f"export {given}")
    if status == 403 and name == "MLflow":
        return fault(
            f"{address} refuses us (status 403): it knows no host {host!r}, or a proxy stands before it",
            f"mlflow server --allowed-hosts {host}, or export NO_PROXY={host}",
        )
    return fault(f"{address} does not look like {name} (status {status})", remedy)


def _of_version(name: str, address: str, theirs: str) -> Finding:
    ours = metadata.version(name.lower())
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return warning(
            f"{address} is {name} {theirs[:40]}, and {ours} is installed here: requests may be refused",
            f"install the same version in both places: pip install '{name.lower()}=={ours}'",
        )
    return ok(f"{address}, {name} {theirs}")


def _get(url: str) -> str:
    request = urllib.request.Request(url)
    prefect = os.environ.get("PREFECT_API_AUTH_STRING", "")
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    mlflow = ":".join(os.environ[name] for name in names) if all(name in os.environ for name in names) else ""
    if who := prefect if "/api" in urlsplit(url).path else mlflow:
        request.add_header("Authorization", f"Basic {base64.b64encode(who.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
        return str(reply.read(1000).decode(errors="replace"))


def _profile_address() -> str:
    import tomllib

    path = Path(os.environ["PREFECT_HOME"]) / "profiles.toml"
    content = tomllib.loads(path.read_text()) if path.exists() else {}
    active = os.environ.get("PREFECT_PROFILE") or content.get("active", "")
    return str(content.get("profiles", {}).get(active, {}).get("PREFECT_API_URL", ""))
