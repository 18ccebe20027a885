"""A module that knows nothing of it ends with its parent, and whatever it has started ends too."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PARENT = """
import subprocess, sys
command = [sys.executable, "-m", "components.core.parent", "sleeper", *sys.argv[1:]]
print(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True).pid, flush=True)
sys.stdin.read()
"""
SLEEPER = """
import signal, sys, time
assert __name__ == "__main__"
def leave(number, frame):
    open(sys.argv[1], "w").write(f"asked by signal {number}")
    raise SystemExit
signal.signal(signal.SIGINT, leave)
open(sys.argv[1], "w").write("begun")
time.sleep(600)
"""


def wait_until(met: object, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_parent_is_a_modules_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", f"{Path.cwd()}:{tmp_path}")
    said = tmp_path / "said"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(said)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        wait_until(said.exists)
        parent.send_signal(number)
        parent.wait()
        wait_until(lambda: not child.is_running())
        assert said.read_text() == "asked by signal 2"
    finally:
        parent.kill()
        parent.communicate()
