"""Folders that cannot be written to, disks that do not suit, files that were left behind."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from conf.compose import compose_project
from conf.schema import ProjectConfig
from flows.doctor import storage


def test_a_new_workspace_is_in_order_and_stays_unmade(workspace: Path, settings: ProjectConfig) -> None:
    checks = [storage.workspace(), storage.records(), storage.locks(), storage.disk(settings), storage.remote(settings)]
    assert [finding.state for finding in checks] == ["ok"] * 5
    assert not workspace.exists()
    assert list(workspace.parent.iterdir()) == []


def test_a_disk_that_takes_no_writes_is_a_fault(
    read_only: Path, monkeypatch: pytest.MonkeyPatch, settings: ProjectConfig
) -> None:
    monkeypatch.setenv("LACEWING_WORKSPACE", str(read_only / "workspace"))
    for found in (storage.workspace(), storage.remote(settings)):
        assert found.state == "fault"
        assert f"{read_only} cannot be written to" in found.found
    assert "export LACEWING_WORKSPACE=" in storage.workspace().remedy


def test_a_file_in_place_of_the_workspace_is_a_fault(workspace: Path) -> None:
    workspace.write_text("not a folder")
    found = storage.workspace()
    assert (found.state, "is a file" in found.found) == ("fault", True)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace on a disk of one megabyte, in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    monkeypatch.setenv("LACEWING_WORKSPACE", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_fault_and_one_in_memory_a_warning(small_disk: Path, settings: ProjectConfig) -> None:
    found = storage.disk(settings)
    assert (found.state, "need 16 MB" in found.found) == ("fault", True)
    found = storage.file_system()
    assert (found.state, "in memory (tmpfs)" in found.found) == ("warning", True)


def test_the_innermost_file_system_counts_and_a_network_is_a_warning(tmp_path: Path) -> None:
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4"), (str(tmp_path / "other"), "ext4")]
    assert storage.file_system_of(tmp_path / "workspace", mounts) == "nfs4"
    found = storage.judged(tmp_path, storage.file_system_of(tmp_path, mounts))
    assert (found.state, "network's disk (nfs4)" in found.found) == ("warning", True)
    assert storage.judged(tmp_path, "fuse.sshfs").state == "warning"
    assert storage.judged(tmp_path, storage.file_system_of(tmp_path, [*mounts, (str(tmp_path), "xfs")])).state == "ok"


def test_planned_data_must_fit(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_project("world", ["data.world.entities=1000000"])
    monkeypatch.setattr(storage, "free_mb", lambda _: 20.0)
    found = storage.disk(config)
    assert (found.state, "the configured data need" in found.found) == ("fault", True)


def test_there_should_be_room_for_as_much_again_as_the_newest_results(
    make_artifact: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_artifact("pretrain", {"model.safetensors": b"w" * 20_000_000})
    config = compose_project("text", ["data.sources=[a.txt]"])
    assert storage.disk(config).state == "ok"
    monkeypatch.setattr(storage, "free_mb", lambda _: 18.0)
    found = storage.disk(config)
    assert (found.state, "the next ones may not fit" in found.found) == ("warning", True)


def test_results_that_cannot_be_read_are_named(model: Artifact) -> None:
    assert storage.records() == storage.ok("2 finished, 0 begun")
    (model.folder / "artifact.json").write_text('{"of": "another version"}')
    (model.folder.parent / "0123456789abcdef").mkdir()
    found = storage.records()
    assert found.state == "warning"
    assert found.found.startswith("1 finished, 1 begun; 1 are damaged")
    assert found.remedy == f"rm -r {model.folder}"


@pytest.fixture
def lock(workspace: Path) -> Callable[[str], Path]:
    def write(content: str) -> Path:
        path = workspace / ".dvc" / "tmp" / "rwlock"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    return write


def test_a_damaged_lock_of_dvc_is_a_fault(lock: Callable[[str], Path]) -> None:
    path = lock('{"write": {"a"')
    assert storage.locks() == storage.fault(f"{path} is damaged, and DVC refuses to work with it", f"rm {path}")


def test_a_lock_of_dvc_whose_number_went_to_another_program_is_a_warning(lock: Callable[[str], Path]) -> None:
    other = subprocess.Popen(["sleep", "60"])
    held = {"read": {"/data": [{"pid": other.pid, "cmd": "push"}]}, "write": {}}
    path = lock(json.dumps(held))
    found = storage.locks()
    other.kill()
    other.wait()
    assert (found.state, found.remedy) == ("warning", f"rm {path}")
    assert f"process {other.pid} (dvc push)" in found.found
    assert storage.locks().state == "ok"  # DVC releases what dead processes held


def test_a_remote_on_s3_needs_its_package(
    settings: ProjectConfig, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    from importlib import metadata

    versioning = {"remote": "s3://bucket/data", "endpoint_url": f"http://127.0.0.1:{closed_port}"}
    asked = compose_project("world", [f"versioning.{key}={value}" for key, value in versioning.items()])

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert storage.remote(asked).remedy == "pip install 'lacewing[s3]'"
    monkeypatch.setattr(metadata, "version", lambda _: "3.3.0")
    found = storage.remote(asked)
    assert (found.state, f"127.0.0.1:{closed_port} does not answer" in found.found) == ("warning", True)
