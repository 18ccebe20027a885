"""What the checks look at, without damage: a test adds the damage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conf.compose import compose_project
from conf.schema import ProjectConfig
from flows.doctor.torch_report import TorchReport

Configure = Callable[..., ProjectConfig]
Install = Callable[..., Path]


@pytest.fixture
def report() -> TorchReport:
    """What torch says of a machine with four cores. (A real one is asked by the test of the whole command.)"""
    return TorchReport(
        version="2.13.0+cpu",
        built_for="CPU",
        gpu="",
        capability=(0, 0),
        gpu_gigabytes=0.0,
        no_gpu_because="",
        cpu_features=("avx2", "avx512_bf16"),
        cores=4,
        threads=4,
        precision="bf16-mixed",
        kernels="attention by torch matrix products",
        kernels_fault="",
    )


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
