"""A flow whose Prefect server goes away goes on, says so once, and ends with what its own work came to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from components.core.errors import InputError, ServiceError
from flows.adapters import prefect_outage
from flows.adapters.prefect_outage import Outcome, attempt, give_up, server_is_gone


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an outage stays in the process of the tests."""
    monkeypatch.setattr(prefect_outage, "_gone", [])
    monkeypatch.setattr(prefect_outage, "_stop_retrying", lambda: None)


def refused() -> None:
    raise httpx.ConnectError("refused")


def test_a_server_that_does_not_answer_is_reported_once_and_asked_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    attempt(lambda: told.append("before"))
    attempt(refused)
    attempt(refused)
    attempt(lambda: told.append("after"))
    assert told == ["before"]
    assert server_is_gone()
    assert capsys.readouterr().err.count("The flow finishes without it") == 1


def test_a_fault_of_ours_is_not_taken_for_an_outage() -> None:
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 // 0)
    assert not server_is_gone()


def test_the_result_of_the_work_counts_if_prefect_cannot_be_told() -> None:
    outcome: Outcome[str] = Outcome()

    def run() -> str:
        outcome.keep(lambda: "trained")
        give_up("Prefect's temporary server was killed by signal 9")
        raise httpx.ConnectError("refused")

    assert outcome.of(run) == "trained"


def test_the_error_of_the_work_counts_if_prefect_cannot_be_told() -> None:
    outcome: Outcome[str] = Outcome()

    def work() -> str:
        raise InputError("no such file")

    def run() -> str:
        give_up("Prefect's temporary server was killed by signal 9")
        try:
            return outcome.keep(work)
        except InputError:
            raise httpx.ConnectError("refused") from None

    with pytest.raises(InputError, match="no such file"):
        outcome.of(run)


def test_a_server_that_goes_before_the_flow_begins_ends_it_with_advice() -> None:
    def run() -> str:
        give_up("Prefect's temporary server was killed by signal 9")
        raise RuntimeError("no answer")

    with pytest.raises(ServiceError, match=r"killed by signal 9, before the flow began\. Run the same command again"):
        Outcome[str]().of(run)


def test_with_a_server_that_answers_errors_are_raised_as_they_are() -> None:
    with pytest.raises(httpx.ConnectError):
        Outcome[str]().of(lambda: refused() or "")


@pytest.mark.slow
@pytest.mark.soak
def test_a_flow_finishes_without_its_temporary_server(workspace: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-m", "flows.cli", "prepare", "data.world.entities=40", "data.vocab_size=512"]
    flow = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert flow.stderr is not None
        while not (line := flow.stderr.readline()).startswith("prepare    runs"):
            assert line, "it ended without a word"
        server = next(each for each in psutil.Process(flow.pid).children() if "prefect_server" in str(each.cmdline()))
        server.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        printed, complained = flow.communicate(timeout=240)
    finally:
        flow.kill()
        flow.communicate()
    assert flow.returncode == 0
    assert "prepare ran" in printed
    assert complained.count("Prefect's temporary server was killed by signal 9") == 1
    assert "Traceback" not in complained
    assert "ConnectError" not in complained
    assert time.monotonic() - killed < 120  # it was four minutes for nothing but a stage of seconds
