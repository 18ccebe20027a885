"""The ledger outlives the processes that write it, and keeps models apart."""

from datetime import UTC, datetime
from pathlib import Path

from flows.ledger import Ledger, Move


def move(ledger: Ledger, version: int) -> Move:
    return Move(
        time=datetime.now(UTC),
        action="promote",
        uri=ledger.uri,
        model=ledger.model,
        version=version,
        key="a" * 32,
        previous=version - 1,
        by="alice",
        reason="better",
    )


def test_moves_come_back_in_order_and_models_are_kept_apart(tmp_path: Path) -> None:
    ours, theirs = (Ledger(tmp_path / "ledger.jsonl", "sqlite:///a", model) for model in ("ours", "theirs"))
    assert ours.last() is None
    for version in (1, 2):
        ours.append(move(ours, version))
    theirs.append(move(theirs, 7))
    assert [each.version for each in ours.moves()] == [1, 2]
    last = theirs.last()
    assert last is not None
    assert last.version == 7


def test_half_a_line_of_a_killed_process_is_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", "sqlite:///a", "ours")
    ledger.append(move(ledger, 1))
    with ledger.path.open("a") as file:
        file.write('{"time": "2026-')
    ledger.append(move(ledger, 2))
    assert [each.version for each in ledger.moves()] == [1, 2]
