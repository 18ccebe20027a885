"""A run's process is known by host, id and start, so that neither a reused id nor another host's is mistaken for it."""

import os
import signal
import subprocess
import sys

import pytest

from flows.owner import is_gone, this_process

SAYS_WHO_IT_IS = "from flows.owner import this_process; print(this_process(), flush=True); import time; time.sleep(60)"


def test_a_process_is_there_until_it_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", SAYS_WHO_IT_IS], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        assert not is_gone(owner)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its entry is still in the table
        assert is_gone(owner)
        process.wait()
        assert is_gone(owner)
    finally:
        process.kill()
        process.wait()


def test_a_later_process_with_the_same_id_is_another_one() -> None:
    who, _, started = this_process().rpartition(":")
    assert not is_gone(f"{who}:{started}")
    assert is_gone(f"{who}:{float(started) - 3600:.2f}")


@pytest.mark.parametrize("owner", ["", "pod-7/abc", "4711", "elsewhere.example:1:5.00", "elsewhere:999999:5.00"])
def test_nothing_is_said_about_other_hosts_and_other_records(owner: str) -> None:
    assert not is_gone(owner)
