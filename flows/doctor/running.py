"""What runs: `lacewing up`, whoever has its ports, and runs whose process has gone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flows.doctor.finding import Finding, ok, warning
from flows.doctor.servers import prefect_file
from flows.workspace import workspace_folder

if TYPE_CHECKING:
    from conf.schema import ProjectConfig
    from flows.adapters.databases import Owner

LOCAL = "127.0.0.1"
_SHOWN = 3


def up() -> Finding:
    """Whether `lacewing up` runs here, or has been killed and left something."""
    from flows.addresses import address_file, running
    from flows.owner import is_gone
    from flows.sole_up import holder

    path = workspace_folder() / "up.lock"
    owner = holder()
    if owner is None:
        if address_file().exists():
            return warning(f"{address_file()} is of a `lacewing up` that was killed", f"rm {address_file()}")
        return ok("it does not run in this workspace")
    if is_gone(owner):
        return warning("it was killed, and its servers have not ended", f"fuser -k {path}")
    addresses = {server: running(server) for server in ("prefect", "mlflow")}  # type: ignore[arg-type]
    who = f"process {owner.split(':')[1]}" if ":" in owner else "a process"
    if silent := [server for server, address in addresses.items() if not address]:
        return warning(
            f"it runs ({who}), but {' and '.join(silent)} {'do' if len(silent) > 1 else 'does'} not answer: it may be "
            "starting",
            f"tail {workspace_folder()}/logs/*.log",
        )
    return ok(f"it runs ({who}): Prefect {addresses['prefect']}, MLflow {addresses['mlflow']}")


def abandoned_runs(config: "ProjectConfig") -> Finding:
    """Whether runs are shown as running whose process was killed."""
    from flows.adapters.databases import open_runs
    from flows.adapters.mlflow_connection import Connection
    from flows.owner import is_gone

    files: dict[Owner, Path | None] = {
        "mlflow": Connection(config.tracking).database_file,
        "prefect": prefect_file(),
    }
    owners = [run for owner, file in files.items() if file and file.exists() for run in open_runs(file, owner)]
    names = list(dict.fromkeys(name for name, process in owners if is_gone(process)))
    if names:
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        return warning(f"{len(names)} count as running although their process has gone: {shown}", "lacewing sync")
    return ok(f"none in the databases of this workspace; {len(owners)} running")


def ports() -> Finding:
    """Whether `lacewing up` and `lacewing serve` can have their ports."""
    from components.deployment.config import ServeConfig
    from conf.schema import UpConfig

    defaults = UpConfig()
    return free_or_held(
        {
            "up prefect_port": defaults.prefect_port,
            "up mlflow_port": defaults.mlflow_port,
            "serve port": ServeConfig().port,
        }
    )


def free_or_held(wanted: Mapping[str, int]) -> Finding:
    """Whether these ports, by command and setting, are free or held by the servers of this workspace."""
    from flows.addresses import running

    ours = {urlsplit(running("prefect")).port, urlsplit(running("mlflow")).port} - {None}
    held = {setting: port for setting, port in wanted.items() if port not in ours and not _is_free(port)}
    if held:
        return warning(
            "; ".join(f"{port} is held by {holding(port)}" for port in held.values()),
            "; ".join(f"lacewing {setting}={_next_free(port)}" for setting, port in held.items()),
        )
    return ok(f"{', '.join(map(str, wanted.values()))} are free{' or our own' if ours else ''}")


def holding(port: int) -> str:
    """The process that listens on ``port``, as far as this user may know."""
    import psutil

    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "a process that only an administrator may see"
    pid = next((each.pid for each in found if each.laddr and each.laddr.port == port and each.status == "LISTEN"), None)
    if pid is None:
        return "a process of another user"
    return f"process {pid} ({psutil.Process(pid).name()})"


def _is_free(port: int) -> bool:
    from components.core.errors import ServiceError
    from flows.ports import ensure_free

    try:
        ensure_free(LOCAL, port, "port")
    except ServiceError:
        return False
    return True


def _next_free(port: int) -> int:
    return next(each for each in range(port + 1, 65536) if _is_free(each))
