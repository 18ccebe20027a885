"""A flow on a full disk ends at once and by name, instead of waiting for databases that cannot grow."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from components.core.errors import DiskFullError, InputError, ServiceError
from flows.room import NEEDED_MB, full_disk_named, require_room
from tests.conftest import ROOT

Mount = Callable[[int], Path]

TINY = ["data.world.entities=40", "data.vocab_size=512", "model.width=64"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a disk of so many kilobytes; skips the test where that is not permitted."""
    folder = tmp_path / "disk"

    def mount(kilobytes: int) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if (
            shutil.which("mount") is None
            or (done := subprocess.run(command, capture_output=True, text=True)).returncode
        ):
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def start(workspace: Path, *arguments: str) -> "subprocess.Popen[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=ROOT,
        env={**clean, "LACEWING_WORKSPACE": str(workspace), "COLUMNS": "400"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fill(disk: Path) -> None:
    """Leave no byte of the disk."""
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\1" * 2**16)


def test_a_flow_on_a_disk_without_room_ends_at_once(small_disk: Mount) -> None:
    disk = small_disk(9_500)
    process = start(disk / "workspace", "prepare", *TINY)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == DiskFullError.exit_code, errors
    assert f"only 9.7 MB are free on the disk of {disk / 'workspace'}" in errors
    assert f"{NEEDED_MB} MB" in errors
    assert not (disk / "workspace").exists(), "nothing was begun"


@pytest.mark.slow
@pytest.mark.soak
def test_a_disk_that_fills_up_during_training_ends_the_flow_within_seconds(small_disk: Mount) -> None:
    disk = small_disk(40_000)
    steps = ["trainer.max_steps=100000", "trainer.checkpoint_every_steps=20"]
    process = start(disk, "pretrain", *TINY, *steps)
    try:
        deadline = time.monotonic() + 300
        while not any(path.stat().st_size for path in disk.glob("artifacts/pretrain/*/history.jsonl")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        fill(disk)
        _, errors = process.communicate(timeout=60)
    finally:
        process.terminate()
    assert process.returncode == DiskFullError.exit_code, errors[-3000:]
    assert str(disk) in errors.splitlines()[-1]


def test_room_is_asked_for_also_where_the_folder_does_not_exist_yet(tmp_path: Path) -> None:
    require_room(tmp_path / "not" / "yet")


def failing(error: Exception) -> Exception:
    """``error`` as a client sees it: hidden behind another one."""
    try:
        try:
            raise error
        except Exception:
            raise RuntimeError("Server error '500 Internal Server Error'") from error
    except RuntimeError as seen:
        return seen


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.OperationalError("disk I/O error"),
    ],
)
def test_what_a_full_disk_causes_is_reported_as_a_full_disk(tmp_path: Path, cause: Exception) -> None:
    with pytest.raises(DiskFullError, match=rf"the disk of {tmp_path}.*MB are free"), full_disk_named(tmp_path):
        raise failing(cause)


@pytest.mark.parametrize("error", [InputError("a bad value"), ServiceError("no answer"), ValueError("bad weights")])
def test_other_errors_pass_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), full_disk_named(tmp_path):
        raise error
