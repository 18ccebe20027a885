"""A process is taken for ended only where that is certain."""

import os
import subprocess
import sys

import pytest

from flows import owner
from flows.owner import is_gone, this_process


def altered(**parts: str) -> str:
    """The record of this process with some parts replaced."""
    record = owner._RECORD.fullmatch(this_process())
    assert record is not None
    host, process, start, boot, container = {**record.groupdict(), **parts}.values()
    return f"{host}:{process}:{start}:{boot}:{container}"


def test_a_living_process_is_not_gone() -> None:
    assert altered() == this_process()
    assert f":{os.getpid()}:" in this_process()
    assert not is_gone(this_process())


@pytest.mark.parametrize("waited_for", [True, False])
def test_a_killed_process_is_gone_also_before_its_parent_has_waited_for_it(waited_for: bool) -> None:
    code = "from flows.owner import this_process; import sys; print(this_process(), flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    record = process.stdout.readline().strip()
    alive_is_gone = is_gone(record)
    process.kill()
    assert process.stdout.read() == ""
    if waited_for:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (alive_is_gone, is_gone(record)) == (False, True)
    process.wait()


def test_a_later_process_of_the_same_id_is_not_the_one() -> None:
    assert is_gone(altered(start="1.00"))


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"container": "1"}])
def test_of_another_machine_or_container_nothing_is_known(elsewhere: dict[str, str]) -> None:
    assert not is_gone(altered(process=str(2**22 + 1), **elsewhere))


def test_when_the_machine_is_started_again_its_processes_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_container", lambda: owner._NO_CONTAINER)
    assert is_gone(altered(boot="the one before"))


def test_containers_that_look_alike_are_told_apart_by_the_boot_of_their_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, "_container", lambda: "4026532000")
    assert not is_gone(altered(boot="of the other machine"))


@pytest.mark.parametrize("text", ["", "42", "host:1", "host:1:2", "{}"])
def test_of_what_is_no_record_nothing_is_known(text: str) -> None:
    assert not is_gone(text)
