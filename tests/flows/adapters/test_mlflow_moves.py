"""Two machines that share a registry: two workspaces, one database, and moves that meet."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.errors import ServiceError
from conf.services import TrackingConfig
from flows.adapters import mlflow_moves
from flows.adapters.mlflow_moves import Announcement, OvertakenError
from flows.promotion import CHAMPION, ChampionMovedError, Registry
from flows.sqlite_address import sqlite_address

ELSEWHERE = "far/machine-id:1:2.00:boot:4026531836"


@pytest.fixture
def machine(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Registry]:
    """The registry as a machine with this name sees it; it has five versions, of which none is champion."""

    def of(name: str) -> Registry:
        monkeypatch.setenv("LACEWING_WORKSPACE", str(tmp_path / name))
        return Registry(TrackingConfig(uri=sqlite_address(database), timeout_seconds=1))

    client = of("first").connection.client
    client.create_registered_model("lacewing")
    for number in range(1, 6):
        source = str(tmp_path / str(number))
        client.create_model_version("lacewing", source=source, tags={"lacewing.key": f"{number:032x}"})
    return of


def champion(registry: Registry) -> int:
    version = registry.version(CHAMPION)
    return version.number if version else 0


def meet(monkeypatch: pytest.MonkeyPatch, registry: Registry, other: Callable[[], object]) -> None:
    """Let ``other`` happen after ``registry`` has looked at the champion, and before it announces its own move."""
    announce = registry.moves.announce

    def late(*arguments: object) -> Announcement:
        other()
        return announce(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(registry.moves, "announce", late)


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(machine, monkeypatch):
    ours, theirs = machine("ours"), machine("theirs")
    ours.promote(1, "first")
    meet(monkeypatch, ours, lambda: theirs.promote(3, "better", by="bob", judged_against=f"{1:032x}"))
    with pytest.raises(
        ChampionMovedError, match=r"version 2 .* was not made champion: .* bob on \S+ has made version 3"
    ):
        ours.promote(2, "better", by="alice", judged_against=f"{1:032x}")
    assert champion(ours) == champion(theirs) == 3
    assert "lacewing.promoted_at" not in ours.version(2).tags, "nothing of the move that lost has happened"
    assert [(move.action, move.version) for move in ours.ledger.changes()] == [("promote", 1)]
    monkeypatch.undo()
    assert ours.promote(2, "compared again", judged_against=f"{3:032x}").number == champion(theirs) == 2


def test_two_rollbacks_at_once_go_back_once(machine, monkeypatch):
    ours, theirs = machine("ours"), machine("theirs")
    for number in (1, 2, 3):
        ours.promote(number, "good")
    meet(monkeypatch, ours, lambda: theirs.rollback("it lies", by="bob"))
    with pytest.raises(ChampionMovedError, match="roll back again if it should still go"):
        ours.rollback("it lies", by="alice")
    assert champion(ours) == 2


def test_who_comes_next_waits_until_the_alias_has_moved(machine, monkeypatch):
    ours, theirs = machine("ours"), machine("theirs")
    waits: list[float] = []
    announced = theirs.moves.announce(3, 0, "bob")

    def move(seconds: float) -> None:
        waits.append(seconds)
        assert len(waits) < 10
        if len(waits) == 3:
            theirs.model.set_alias(CHAMPION, theirs.version(3))
            theirs.moves.finish(announced)

    monkeypatch.setattr(mlflow_moves.time, "sleep", move)
    with pytest.raises(
        ChampionMovedError, match="was compared with no champion, but the champion is lacewing version 3"
    ):
        ours.promote(2, "better", judged_against="")
    assert len(waits) == 3


def test_a_mover_that_was_killed_here_is_not_waited_for(machine, monkeypatch):
    ours, theirs = machine("ours"), machine("theirs")
    monkeypatch.setattr(mlflow_moves, "is_gone", lambda owner: True)
    monkeypatch.setattr(mlflow_moves.time, "sleep", lambda seconds: pytest.fail("waited"))
    theirs.moves.announce(3, 0, "bob")
    assert ours.promote(2, "better").number == champion(theirs) == 2


def test_a_mover_elsewhere_that_does_not_go_on_is_waited_for_only_so_long(machine, monkeypatch):
    ours, theirs = machine("ours"), machine("theirs")
    monkeypatch.setattr(mlflow_moves, "this_process", lambda: ELSEWHERE)
    late = theirs.moves.announce(3, 0, "bob")
    ours.moves.patience_seconds = 0.3
    ours.promote(2, "better", by="alice")
    theirs.model.set_alias(CHAMPION, theirs.version(3))  # it was not dead, it only stood still
    assert (theirs.moves.finish(late) or late).version == 2


def test_a_mover_that_was_overtaken_after_all_moves_the_alias_back(machine, monkeypatch):
    ours, theirs = machine("ours"), machine("theirs")
    set_alias = theirs.model.set_alias

    def slow(*arguments: object) -> None:
        monkeypatch.setattr(theirs.model, "set_alias", set_alias)
        ours.moves.patience_seconds = 0.0
        ours.promote(2, "better", by="alice")
        set_alias(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(theirs.model, "set_alias", slow)
    with pytest.raises(ChampionMovedError, match=r"alice on .* has made version 2"):
        theirs.promote(3, "better", by="bob")
    assert champion(ours) == champion(theirs) == 2
    assert theirs.rolled_back("anything") is None, "the next call writes the move off"
    assert [move.action for move in theirs.ledger.changes()] == []


def test_only_announcements_made_in_view_of_the_one_before_count(machine):
    moves = machine("ours").moves
    assert moves.last() == 0
    first = moves.announce(1, 0, "alice")
    assert (moves.finish(first), moves.last()) == (None, 1)
    for _ in range(2):
        with pytest.raises(OvertakenError) as overtaken:
            moves.announce(2, 0, "bob")
        assert (overtaken.value.first.number, overtaken.value.first.by) == (1, "alice")
    moves.connection.client.create_model_version(moves.name, source="models:/lacewing/1")  # by hand
    fifth = moves.announce(2, 1, "bob")
    assert (fifth.number, fifth.after) == (5, 1)
    moves.finish(fifth)
    assert moves.last() == 5


def test_a_bundle_that_two_machines_register_at_once_is_one_version(machine, make_bundle, monkeypatch):
    theirs, ours = machine("theirs"), machine("workspace")
    bundle = make_bundle("a")
    run_of = ours.model._run_of

    def late(bundle):
        assert theirs.register(bundle).number == 6
        return run_of(bundle)

    monkeypatch.setattr(ours.model, "_run_of", late)
    assert ours.register(bundle).number == 6
    assert [version.number for version in ours.versions()] == [1, 2, 3, 4, 5, 6]


def test_files_that_only_another_machine_has_are_not_looked_for_in_vain(machine, make_bundle, tmp_path):
    """Of a bare database, which knows where files were written, and has no way to them."""
    registry = machine("workspace")
    registry.promote(registry.register(make_bundle("a")).number, "good")
    (tmp_path / "workspace").rename(tmp_path / "moved away")
    with pytest.raises(ServiceError, match=r"are not on this machine: .* need an MLflow server that keeps the files"):
        machine("elsewhere").champion()
