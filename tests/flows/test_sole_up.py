"""Only one `lacewing up` in a workspace, and a new one waits for the services of a killed one."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.core.errors import ServiceError
from flows.sole_up import sole_up

HOLDS = """
import subprocess, sys, time
from flows.sole_up import sole_up
with sole_up() as lock:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(float(%r))" % sys.argv[1]], pass_fds=[lock])
    print("up", flush=True)
    time.sleep(600)
"""


def another(service_seconds: float) -> "subprocess.Popen[str]":
    """An `up` in a process of its own whose only service ends by itself after so many seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(service_seconds)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_a_second_one_is_refused_and_names_the_first(workspace: Path) -> None:
    workspace.mkdir()
    first = another(0)
    try:
        with pytest.raises(ServiceError, match=rf"process {first.pid}\b.*LACEWING_WORKSPACE"), sole_up():
            pass
    finally:
        first.kill()
        first.communicate()


def test_a_new_one_waits_for_the_services_of_a_killed_one(workspace: Path) -> None:
    workspace.mkdir()
    killed = another(4)
    started = time.monotonic()
    killed.kill()
    killed.wait()
    with sole_up():
        waited = time.monotonic() - started
    assert 2 < waited < 30
    with sole_up():  # and nothing is left of it
        pass
    killed.communicate()
