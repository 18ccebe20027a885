"""MLflow's database appears complete or not at all, and one that was left half-migrated is mended."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.core.errors import DiskFullError, ServiceError
from conf.services import TrackingConfig
from flows.adapters.databases import damage, schema_age
from flows.adapters.mlflow_connection import Connection
from flows.adapters.mlflow_database import bring_up_to_date
from flows.adapters.mlflow_runs import FlowTracker
from flows.sqlite_address import sqlite_address
from tests.conftest import ROOT

REVISION_BEFORE_SPANS = "770bee3ae1dd"  # the next migration makes a table that a half-migrated database has already


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Meanwhile no file of this process can grow beyond ``size`` bytes, as on a disk that fills up."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def with_a_run(path: Path) -> str:
    client = MlflowClient(tracking_uri=sqlite_address(path))
    experiment = client.create_experiment("kept", artifact_location=(path.parent / "files").as_uri())
    return str(client.create_run(experiment).info.run_id)


def has_run(path: Path, run_id: str) -> bool:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM runs WHERE run_uuid = ?", (run_id,)).fetchone() == (1,)


def test_a_disk_that_fills_up_leaves_no_half_database(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with files_no_larger_than(300_000), pytest.raises(DiskFullError, match=r"mlflow\.db cannot grow.*MB are needed"):
        bring_up_to_date(path)
    assert [file.name for file in tmp_path.iterdir()] == [".mlflow.db.lock"]
    bring_up_to_date(path)
    MlflowClient(tracking_uri=sqlite_address(path)).search_experiments()


def test_a_full_disk_is_told_from_a_request_too(workspace: Path, database: Path) -> None:
    connection = Connection(TrackingConfig())
    _ = connection.experiment_id

    def fill() -> None:
        with connection.explained():
            for number in range(200):
                connection.create_run(f"run {number}", {"text": "x" * 5000})

    with files_no_larger_than(database.stat().st_size), pytest.raises(DiskFullError, match=r"mlflow\.db cannot grow"):
        fill()


def test_a_full_disk_ends_a_flow_instead_of_being_remembered_for_later(workspace: Path, database: Path, model) -> None:  # type: ignore[no-untyped-def]
    tracker = FlowTracker(TrackingConfig(), "pipeline")
    _ = tracker.connection.experiment_id

    def fill() -> None:
        for _ in range(200):
            tracker.upload(model)
            (model.folder / "tracking.json").unlink()

    with files_no_larger_than(database.stat().st_size), pytest.raises(DiskFullError):
        fill()
    assert isinstance(tracker.failure, DiskFullError)


def test_a_half_migrated_database_without_data_is_made_anew(tmp_path: Path, migrated_database: Path) -> None:
    path = Path(shutil.copy(migrated_database, tmp_path / "mlflow.db"))
    change(path, f"UPDATE alembic_version SET version_num = '{REVISION_BEFORE_SPANS}'")
    for name in (".mlflow.db.abc.part", ".mlflow.db.abc.part-journal"):
        (tmp_path / name).write_bytes(b"left behind by a migration that was killed")
    bring_up_to_date(path)
    assert {file.name for file in tmp_path.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}
    MlflowClient(tracking_uri=sqlite_address(path)).search_experiments()


@pytest.mark.parametrize(
    "left_behind",
    [
        "CREATE TABLE _alembic_tmp_trace_tags (key VARCHAR(250))",
        "ALTER TABLE trace_tags RENAME TO _alembic_tmp_trace_tags",
    ],
    ids=["a copy beside its table", "a copy whose table was dropped"],
)
def test_tables_of_a_broken_migration_are_resolved_and_the_runs_are_kept(
    tmp_path: Path, migrated_database: Path, left_behind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(migrated_database, tmp_path / "mlflow.db"))
    run_id = with_a_run(path)
    change(path, left_behind)
    bring_up_to_date(path)
    assert has_run(path, run_id)
    with closing(sqlite3.connect(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE name LIKE '%trace_tags'")}
    assert tables == {"trace_tags"}
    assert "mended" in capsys.readouterr().err.replace("\n", " ")


def test_a_database_that_cannot_be_mended_is_named_and_left_as_it_is(tmp_path: Path, migrated_database: Path) -> None:
    path = Path(shutil.copy(migrated_database, tmp_path / "mlflow.db"))
    run_id = with_a_run(path)
    change(
        path,
        "CREATE TABLE _alembic_tmp_trace_tags (key VARCHAR(250))",
        f"UPDATE alembic_version SET version_num = '{REVISION_BEFORE_SPANS}'",
    )
    before = path.read_bytes()
    with pytest.raises(ServiceError, match=r"(?s)mlflow\.db was left half-migrated.*lacewing sync"):
        bring_up_to_date(path)
    assert path.read_bytes() == before
    assert has_run(path, run_id)


def test_its_age_is_read_without_mlflow(migrated_database: Path) -> None:
    """The newest revision is taken from file names of the package; here it is compared with a real database."""
    assert schema_age(migrated_database, "mlflow") == "current"
    assert damage(migrated_database) == ""


def test_a_database_in_order_is_not_touched(tmp_path: Path, migrated_database: Path) -> None:
    path = Path(shutil.copy(migrated_database, tmp_path / "mlflow.db"))
    before = path.stat()
    bring_up_to_date(path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.slow
def test_a_workspace_that_a_full_disk_broke_before_works_again(tmp_path: Path) -> None:
    """MLflow alone, as this project called it before, leaves a database that no later call can use."""
    path = tmp_path / "mlflow.db"
    alone = (
        "import resource, sys; import flows; from mlflow import MlflowClient\n"
        "if len(sys.argv) > 1: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
        f"MlflowClient(tracking_uri='sqlite:///{path}').search_experiments()\n"
    )
    environment = {**os.environ, "LACEWING_WORKSPACE": str(tmp_path)}
    for limit in (["limited"], []):
        run = subprocess.run([sys.executable, "-c", alone, *limit], env=environment, cwd=ROOT, capture_output=True)
        assert run.returncode == 1, "MLflow now copes by itself: flows/adapters/mlflow_database.py may go"
    bring_up_to_date(path)
    MlflowClient(tracking_uri=sqlite_address(path)).search_experiments()
