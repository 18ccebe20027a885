"""The process that asks the registry: what it says is passed on, and if it ends it is started again."""

import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

from components.deployment import registry_process as module
from components.deployment.registry_process import RegistryProcess
from components.deployment.wanted import Target, Wanted


def speaking(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_lines_are_passed_on_and_an_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.05)
    told: SimpleQueue[Wanted] = SimpleQueue()
    line = Wanted(served=Target(name="lacewing/7", digest="d")).model_dump_json()
    process = RegistryProcess(speaking(f"print('not a state'); print({line!r}); raise SystemExit(3)"), told.put)
    served, ended, again = (told.get(timeout=30) for _ in range(3))
    process.close()
    assert served == again == Wanted(served=Target(name="lacewing/7", digest="d"))
    assert ended.fault.endswith("is started again: exit code 3")


def test_a_command_that_does_not_exist_is_told(tmp_path: Path) -> None:
    told: SimpleQueue[Wanted] = SimpleQueue()
    process = RegistryProcess([str(tmp_path / "nothing")], told.put)
    assert "cannot be started" in told.get(timeout=30).fault
    process.close()


def test_it_ends_when_it_is_closed() -> None:
    told: SimpleQueue[Wanted] = SimpleQueue()
    line = Wanted(fault="none yet").model_dump_json()
    process = RegistryProcess(speaking(f"import time; print({line!r}, flush=True); time.sleep(600)"), told.put)
    told.get(timeout=30)
    began = time.monotonic()
    process.close()
    assert time.monotonic() - began < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "registry"]
