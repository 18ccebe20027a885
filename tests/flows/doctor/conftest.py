"""What the checks look at, without damage: a test adds the damage."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.compose import compose_project
from conf.schema import ProjectConfig
from flows.doctor.torch_report import TorchReport, ask

Configure = Callable[..., ProjectConfig]
Install = Callable[..., Path]


@pytest.fixture(scope="session")
def report() -> TorchReport:
    """What this machine's torch says when it may use one thread only; a process of its own is asked."""
    before = dict(os.environ)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        return ask()
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def settings() -> ProjectConfig:
    return compose_project()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution that hides the real one of that name: its metadata, before all others on the path."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def install(name: str, version: str, requires: str = "", entry_points: str = "") -> Path:
        folder = tmp_path / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True)
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        (folder / "entry_points.txt").write_text(entry_points)
        return folder.parent

    (tmp_path / "site").mkdir()
    return install
