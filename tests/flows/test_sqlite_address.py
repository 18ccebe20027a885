"""A database lies where its path says, whatever signs the path holds."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from conf.services import TrackingConfig
from flows.adapters.mlflow_runs import FlowTracker
from flows.sqlite_address import PREFECT, sqlite_address
from tests.conftest import ROOT

ODD = "x #%? é%20&=1"


def test_an_ordinary_path_is_written_as_people_write_it() -> None:
    assert sqlite_address(Path("/data/my runs/mlflow.db")) == "sqlite:////data/my runs/mlflow.db"
    assert sqlite_address(Path("/data/prefect.db"), PREFECT) == "sqlite+aiosqlite:////data/prefect.db"


@pytest.mark.parametrize("name", [ODD, "plain", "a?b", "a%b", "a#b"])
def test_the_address_leads_to_the_file_for_both_kinds_of_engine(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with create_engine(sqlite_address(folder / "a.db")).begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))

    async def create() -> None:
        engine = create_async_engine(sqlite_address(folder / "b.db", PREFECT))
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE t (x INTEGER)"))
        await engine.dispose()

    asyncio.run(create())
    assert {path.name for path in folder.iterdir()} == {"a.db", "b.db"}
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert make_url(sqlite_address(folder / "a.db")).query == {}


def test_mlflow_keeps_runs_and_files_in_a_workspace_of_that_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    migrated_database: Path,
    model,  # type: ignore[no-untyped-def]
) -> None:
    workspace = tmp_path / "beside" / ODD
    workspace.mkdir(parents=True)
    shutil.copy(migrated_database, workspace / "mlflow.db")
    monkeypatch.setenv("LACEWING_WORKSPACE", str(workspace))
    tracker = FlowTracker(TrackingConfig(), "pipeline")
    assert tracker.upload(model), tracker.failure
    assert tracker.connection.client.search_runs([tracker.connection.experiment_id])
    assert list((workspace / "mlartifacts").glob("**/artifact.json"))
    assert [path.name for path in (tmp_path / "beside").iterdir()] == [ODD]


def test_prefect_is_given_the_address_of_the_database_in_such_a_workspace(tmp_path: Path) -> None:
    workspace = tmp_path / ODD
    code = (
        "import flows; from prefect.settings import get_current_settings;"
        "from sqlalchemy import make_url;"
        "print(make_url(get_current_settings().server.database.connection_url.get_secret_value()).database)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**clean, "LACEWING_WORKSPACE": str(workspace)}
    output = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, env=environment)
    assert output.strip() == str(workspace / "prefect" / "prefect.db")
