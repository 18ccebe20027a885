"""Multiple choice in other formats and orders."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from components.evaluation.robustness.formats import USUAL, Format, format_spread, sampled
from components.evaluation.robustness.items import Item
from components.evaluation.robustness.option_order import format_scores, rotated_scores, rotations
from components.evaluation.score_table import Score
from components.evaluation.text_models.base import Continuation, Likelihood
from tests.evaluation.robustness.conftest import TableModel

ITEMS = [
    Item(f"q{number}", f"Where is {number}?", "", f"right {number}", (), ("a", f"right {number}", "b", "c"))
    for number in range(12)
]


@dataclass
class Chooser(TableModel):
    """Prefers the first letter, the right text, or nothing; only where the format is the usual one, if asked so."""

    prefers: str = "right"
    only_usual: bool = False

    def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        return [Likelihood(0.0 if self._prefers(each) else -1.0, False, 1) for each in requests]

    def _prefers(self, request: Continuation) -> bool:
        mark = request.text.strip()
        if self.only_usual and not request.context.startswith("Question: "):
            return mark in "Aa1"
        if self.prefers == "right":
            return any(
                line.replace("(", " ").replace("[", " ").split()[0].strip(".)]>< ") == mark
                for line in request.context.split("\n")
                if "right" in line and "Question" not in line
            )
        return mark == "A" if self.prefers == "first" else False


def test_the_usual_format_reads_as_people_write_it() -> None:
    assert USUAL.written("Where is it?", ["Orlen", "Pavia"]) == (
        "Question: Where is it?\nChoices: \nA. Orlen\nB. Pavia\nAnswer:"
    )


def test_formats_are_different_seeded_and_as_many_as_there_are() -> None:
    found = sampled(50, seed=3)
    assert found[0] == USUAL
    assert len({format.name for format in found}) == len(set(found)) == 50
    assert len({format.written("Where?", ["x", "y"]) for format in found}) == 50
    assert found == sampled(50, seed=3) != sampled(50, seed=4)
    assert len(sampled(10**6, seed=0)) == 3 * 6 * 6 * 6 * 3


def test_the_spread_is_that_of_the_accuracy() -> None:
    formats = [USUAL, Format("lower", " - ", "\n", "{})", "letters")]
    steady = format_scores(Chooser(None), "formats", ITEMS, [USUAL])
    assert format_spread(steady).spread == 0.0  # type: ignore[union-attr]
    fragile = format_spread(format_scores(Chooser(None, only_usual=True), "formats", ITEMS, formats))
    assert fragile is not None
    assert (fragile.best, fragile.highest, fragile.lowest) == (USUAL.name, 1.0, 0.0)
    assert format_spread([]) is None


def test_rotations_put_each_choice_once_at_every_place() -> None:
    found = rotations(["a", "b", "c"], 0)
    assert found == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert rotations(["a", "b", "c"], 2) == found[:2]


@pytest.mark.parametrize(("prefers", "acc", "same"), [("right", 1.0, 1.0), ("first", 0.25, 0.0), ("none", 0.25, 1.0)])
def test_whoever_chooses_by_letter_changes_the_choice_with_the_order(prefers: str, acc: float, same: float) -> None:
    rows = rotated_scores(Chooser(None, prefers=prefers), "options", ITEMS, 0)

    def mean(metric: str) -> float:
        found: list[Score] = [row for row in rows if row.metric == metric]
        return sum(row.score for row in found) / len(found)

    assert mean("acc") == acc  # of choices that are all alike, each gets its share
    assert mean("same_choice") == same
    assert {row.format for row in rows if row.metric == "acc"} == {f"rotation {place}" for place in range(4)}
