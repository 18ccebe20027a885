"""Files appear whole or not at all."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.atomic import replacing, write_json, write_text


def test_a_failed_write_leaves_the_old_content_and_no_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"step": 1})
    with pytest.raises(TypeError), replacing(path) as temporary:
        temporary.write_text(1)  # type: ignore[arg-type]  # stops half-way, with the file open
    assert json.loads(path.read_text()) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_text_survives_unchanged(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "note.txt", "Łódź\r\n\u2028")
    assert (tmp_path / "deep" / "note.txt").read_bytes().decode() == "Łódź\r\n\u2028"


def test_a_full_disk_is_explained_and_loses_nothing(tmp_path: Path) -> None:
    """A file-size limit gives the same kind of failure as a full disk, without filling one."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    program = f"""
import resource, signal
from pathlib import Path
from components.core.atomic import write_bytes
from components.core.errors import DiskFullError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, {resource.RLIM_INFINITY}))
try:
    write_bytes(Path({str(path)!r}), b"x" * 100_000)
except DiskFullError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "no space left while writing" in done.stdout
    assert str(path) in done.stdout
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.bin"]
