"""MLflow's database in a SQLite file: made, migrated and mended in one step.

MLflow migrates a database in place, table by table. If the disk fills up or the process is killed meanwhile, what is
left can neither be used nor migrated again. Here a copy beside the file is migrated, and takes its place when it is
complete. What an earlier version of this project left half-migrated is mended in the same way.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

from components.core.atomic import PARTIAL, full_disk_explained, replacing
from components.core.errors import DiskFullError, LacewingError, ServiceError
from flows import console
from flows.room import free_mb, words_for_full_disk
from flows.sqlite_address import sqlite_address

_COPY = "_alembic_tmp_"  # Alembic alters a table by filling a copy of it, which then takes its name
NEEDED_MB = 4  # an empty database of MLflow 3.17 has 1 MB, and a copy and a journal lie beside it for a moment


def bring_up_to_date(path: Path) -> None:
    """Make or migrate the database ``path``; one that this version of MLflow can use is left alone.

    Raises:
        DiskFullError: there is no room for it; what was there before is unchanged.
        ServiceError: it was left half-migrated in a way that cannot be mended.
    """
    if _revision(path) == _newest_revision():
        return
    with full_disk_explained(path), full_database_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            _remove_leftovers(path)
            if _revision(path) != _newest_revision():
                _migrate(path)


@contextmanager
def full_database_explained(path: Path) -> Iterator[None]:
    """Turn what SQLite, or MLflow in its name, says of a full disk into a ``DiskFullError`` that names the file."""
    try:
        yield
    except LacewingError:
        raise
    except Exception as error:
        if not words_for_full_disk(error):
            raise
        raise DiskFullError(
            f"MLflow's database {path} cannot grow: the disk is full, or a limit on the size of files is met "
            f"({words_for_full_disk(error)}; {free_mb(path):.1f} MB free on that disk). At least {NEEDED_MB} MB are "
            "needed. Nothing written before is lost: free some space and run the same command again to continue."
        ) from error


def _migrate(path: Path) -> None:
    with replacing(path) as copy:
        mended = path.exists() and _copied(path, copy)
        holds_data = path.exists() and _holds_data(copy)
        if not holds_data:
            copy.write_bytes(b"")  # nothing is lost, and a new one is certain to be sound
        try:
            _upgrade(copy, new=not holds_data)
        except Exception as error:
            if not mended or words_for_full_disk(error):
                raise
            raise ServiceError(
                f"MLflow's database {path} was left half-migrated and cannot be mended ({_first_line(error)}). "
                "Move it aside: `lacewing sync` sends the runs of this workspace to a new one, and "
                "`lacewing release` registers its model again."
            ) from error
    if mended:
        console.say(f"mended MLflow's database {path}, which an earlier run had left half-migrated")


def _copied(path: Path, copy: Path) -> bool:
    """Copy the database as SQLite sees it; returns whether tables of a broken migration were found and resolved."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        tables = _tables(target)
        broken = [name for name in tables if name.startswith(_COPY)]
        for name in broken:
            table = name.removeprefix(_COPY)
            # The original is dropped only after the copy is complete.
            target.execute(f'DROP TABLE "{name}"' if table in tables else f'ALTER TABLE "{name}" RENAME TO "{table}"')
        target.commit()
    return bool(broken) or "alembic_version" not in tables


def _holds_data(path: Path) -> bool:
    """Whether anything but MLflow's own default experiment is in the database."""
    questions = {
        "experiments": "SELECT EXISTS (SELECT 1 FROM experiments WHERE name != 'Default')",
        "runs": "SELECT EXISTS (SELECT 1 FROM runs)",
        "registered_models": "SELECT EXISTS (SELECT 1 FROM registered_models)",
    }
    with closing(sqlite3.connect(path)) as database:
        tables = _tables(database)
        return any(database.execute(query).fetchone()[0] for table, query in questions.items() if table in tables)


def _upgrade(path: Path, *, new: bool) -> None:
    """What ``mlflow db upgrade`` does, and for a new database what opening a store does first."""
    from mlflow.store.db import utils
    from sqlalchemy import event

    engine = utils.create_sqlalchemy_engine(sqlite_address(path))
    event.listen(engine, "connect", _write_at_once)
    try:
        if new:
            utils._initialize_tables(engine)
        else:
            utils._upgrade_db(engine)
    finally:
        engine.dispose()


def _write_at_once(connection: sqlite3.Connection, _: object) -> None:
    """Nothing has to survive a crash before the copy is complete, so SQLite need not wait for the disk."""
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = MEMORY")


def _revision(path: Path) -> str | None:
    """Revision of the schema; ``None`` without a file, empty if a migration has not been completed."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(path, timeout=20)) as database:
        tables = _tables(database)
        if "alembic_version" not in tables or any(name.startswith(_COPY) for name in tables):
            return ""
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""


def _newest_revision() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def _tables(database: sqlite3.Connection) -> set[str]:
    return {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _remove_leftovers(path: Path) -> None:
    """Copies and their journals, of processes that were killed while they migrated; we hold the lock."""
    for leftover in path.parent.glob(f".{path.name}.*{PARTIAL}*"):
        leftover.unlink()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
