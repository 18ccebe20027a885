"""The ledger outlives the processes that write it, and keeps models apart."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from flows.ledger import Entry, Ledger


def move(ledger: Ledger, version: int) -> Entry:
    return Entry(
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
    assert [each.version for each in ours.changes()] == [1, 2]
    last = theirs.last()
    assert last is not None
    assert last.version == 7


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl", "sqlite:///a", "ours")


def test_half_a_line_of_a_killed_process_gives_way_to_the_next(ledger: Ledger) -> None:
    ledger.append(move(ledger, 1))
    with ledger.path.open("a") as file:
        file.write('{"time": "2026-')
    assert [each.version for each in ledger.changes()] == [1]
    ledger.append(move(ledger, 2))
    assert [each.version for each in ledger.changes()] == [1, 2]
    assert len(ledger.path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda line: b'{"time": "2026-\n', "Invalid JSON"),
        (lambda line: b"\x00" * len(line[:-1]) + b"\n", "Invalid JSON"),
        (lambda line: line.replace(b'"version":2', b'"version":"two"'), "version: Input should be a valid integer"),
        (lambda line: line.replace(b'"promote"', b'"promoted"'), "action: Input should be 'promote'"),
    ],
)
def test_a_damaged_line_is_named_with_what_to_do(ledger: Ledger, damage: Callable[[bytes], bytes], words: str) -> None:
    for version in (1, 2, 3):
        ledger.append(move(ledger, version))
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join([lines[0], damage(lines[1]), lines[2]]))
    with pytest.raises(
        ArtifactError, match=r"ledger\.jsonl, line 2 is damaged .*Put the line right, or delete it"
    ) as error:
        ledger.changes()
    assert words in str(error.value)


def test_an_intention_counts_as_no_move_until_it_is_done(ledger: Ledger) -> None:
    intended = move(ledger, 1).model_copy(update={"state": "intended"})
    ledger.append(intended)
    assert ledger.changes() == []
    assert ledger.interrupted() == intended.model_copy(update={"after": ""})
    ledger.append(intended.model_copy(update={"state": "abandoned"}))
    assert ledger.changes() == []
    assert ledger.interrupted() is None
    ledger.append(intended)
    ledger.append(move(ledger, 1))
    assert ledger.interrupted() is None
    assert len(ledger.changes()) == 1


def test_lines_from_before_there_were_intentions_can_be_read(ledger: Ledger) -> None:
    line = move(ledger, 1).model_dump_json(exclude={"state"})
    ledger.path.write_text(line + "\n")
    assert [each.state for each in ledger.changes()] == ["done"]


@pytest.fixture
def three(ledger: Ledger) -> list[bytes]:
    for version in (1, 2, 3):
        ledger.append(move(ledger, version))
    return ledger.path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("altered", "line"),
    [
        (lambda one, two, three: [one, two.replace(b"better", b"worse!"), three], 3),
        (lambda one, two, three: [one, three], 2),
        (lambda one, two, three: [two, three], 1),
        (lambda one, two, three: [one, one, two, three], 2),
        (lambda one, two, three: [one, three, two], 2),
    ],
)
def test_a_line_that_was_altered_or_removed_or_inserted_or_moved_is_found_by_the_next(
    ledger: Ledger, three: list[bytes], altered: Callable[..., list[bytes]], line: int
) -> None:
    assert ledger.fault({}) is None
    ledger.path.write_bytes(b"".join(altered(*three)))
    assert f"line {line} was written after another line" in str(ledger.fault({}))


def test_an_end_that_was_cut_off_is_found_by_the_receipt(ledger: Ledger, three: list[bytes]) -> None:
    last = move(ledger, 4)
    receipts = {"version 4": ledger.receipt(last)}
    ledger.append(last)
    assert ledger.fault(receipts) is None
    ledger.path.write_bytes(b"".join(three))
    assert "lacks the line that version 4 has the receipt of" in str(ledger.fault(receipts))


def test_receipts_of_other_ledgers_and_the_first_line_of_ones_own(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "other.jsonl", "sqlite:///a", "ours")
    theirs, ours = move(other, 1), move(ledger, 2)
    receipts = {"version 1": other.receipt(theirs), "version 2": ledger.receipt(ours)}
    other.append(theirs)
    ledger.append(ours)
    assert ledger.fault(receipts) is None
    assert other.fault(receipts) is None


def test_lines_from_before_the_chain_may_stand_before_it_and_never_within(ledger: Ledger) -> None:
    old = move(ledger, 1).model_dump_json(exclude={"after"}) + "\n"
    ledger.path.write_text(old * 2)
    ledger.append(move(ledger, 2))
    assert ledger.fault({}) is None
    with ledger.path.open("a") as file:
        file.write(old)
    assert "line 4" in str(ledger.fault({}))


def test_a_decision_is_no_change_of_champion(ledger: Ledger) -> None:
    ledger.append(move(ledger, 1))
    ledger.append(move(ledger, 2).model_copy(update={"action": "refuse"}))
    assert [entry.version for entry in ledger.changes()] == [1]
    assert [entry.version for entry in ledger.entries()] == [1, 2]
    last = ledger.last()
    assert last is not None
    assert last.version == 1
