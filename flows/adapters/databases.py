"""The SQLite files of MLflow and Prefect, read without either: importing them takes seconds, and they may be broken.

Both keep the revision of their schema in the table ``alembic_version``, and ship one file for each revision that they
know.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import quote

Owner = Literal["mlflow", "prefect"]
SchemaAge = Literal["current", "older", "unknown", "incomplete"]
"""unknown: of a version of the package that is newer than the installed one. incomplete: a migration broke off."""

TIMEOUT_SECONDS = 2.0
_REVISIONS = {
    "mlflow": Path("store/db_migrations/versions"),
    "prefect": Path("server/database/_migrations/versions/sqlite"),
}
_LINE = re.compile(r"""^(revision|down_revision)\b[^=\n]*=\s*(?:["'](\w+)["']|None)""", re.MULTILINE)
_COPY = "_alembic_tmp_"  # a table that alembic was altering

# Name of the run, and the record of its process (see ``flows.owner``).
_OPEN = {
    "mlflow": "SELECT runs.name, tags.value FROM runs JOIN tags USING (run_uuid)"
    " WHERE runs.status = 'RUNNING' AND tags.key = 'lacewing.process'",
    "prefect": "SELECT name, infrastructure_pid FROM flow_run WHERE infrastructure_pid IS NOT NULL"
    " AND state_type IN ('PENDING', 'RUNNING', 'CANCELLING')",
}


def schema_age(path: Path, owner: Owner) -> SchemaAge:
    """How the schema of the database compares with what the installed package expects.

    Raises ``sqlite3.Error`` for a file that is no sound database, or is locked.
    """
    with _opened(path) as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables or any(name.startswith(_COPY) for name in tables):
            return "incomplete"
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    newest, known = revisions(owner)
    if row is None or row[0] not in known:
        return "unknown" if row else "incomplete"
    return "current" if row[0] == newest else "older"


def revisions(owner: Owner) -> tuple[str, set[str]]:
    """The newest revision that the installed package knows, and all of them."""
    known: set[str] = set()
    before: set[str] = set()
    for file in _folder(owner).glob("*.py"):
        stated = dict(_LINE.findall(file.read_text(encoding="utf-8")))
        known |= {stated.get("revision", "")} - {""}
        before |= {stated.get("down_revision", "")} - {""}
    (newest,) = known - before
    return newest, known


def damage(path: Path) -> str:
    """What SQLite's quick check says against the file, its first complaint; empty if it is sound."""
    with _opened(path) as database:
        (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
    return "" if said == "ok" else str(said).strip().splitlines()[-1]


def open_runs(path: Path, owner: Owner) -> list[tuple[str, str]]:
    """Name and process of every run that has not ended."""
    with _opened(path) as database:
        return [(str(name), str(process)) for name, process in database.execute(_OPEN[owner])]


def _folder(owner: Owner) -> Path:
    spec = find_spec(owner)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {owner!r}")
    return Path(spec.origin).parent / _REVISIONS[owner]


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """For reading only: looking must not change a database, and not make one either."""
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=TIMEOUT_SECONDS)) as database:
        yield database
