"""A process is taken for ended only where that is certain."""

import subprocess
import sys

import pytest

from flows.owner import _NO_CONTAINER, Owner


def test_what_is_written_down_is_read_again_and_is_alive() -> None:
    owner = Owner.read(str(Owner.here()))
    assert owner == Owner.here()
    assert not owner.has_ended()


def test_a_process_that_was_killed_has_ended() -> None:
    code = "from flows.owner import Owner; import sys; print(Owner.here(), flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    owner = Owner.read(process.stdout.readline())
    assert owner is not None
    try:
        assert not owner.has_ended()
    finally:
        process.kill()
    assert process.wait() < 0
    assert owner.has_ended()


def test_another_process_of_the_same_number_is_not_the_one() -> None:
    assert Owner.here()._replace(started=1.0).has_ended()


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"container": "pid:[1]"}])
def test_a_process_of_another_machine_or_container_is_never_taken_for_ended(elsewhere: dict[str, str]) -> None:
    assert not Owner.here()._replace(pid=2**22 + 1, **elsewhere).has_ended()


def test_a_restart_of_the_machine_ends_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.owner._container", lambda: _NO_CONTAINER)
    assert Owner.here()._replace(boot="the one before").has_ended()


def test_two_containers_that_look_alike_are_told_apart_by_the_start_of_their_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.owner._container", lambda: "pid:[4026532000]")
    assert not Owner.here()._replace(boot="of the other machine").has_ended()


@pytest.mark.parametrize("text", ["", "42", "{}", '{"pid": 3}', "[1, 2]"])
def test_what_is_no_process_is_none(text: str) -> None:
    assert Owner.read(text) is None
