"""Slips are bounded, seeded, and leave names and numbers whole; answers are compared before and after."""

import re
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.robustness.items import Item, changed
from components.evaluation.robustness.slip_scores import slip_scores
from components.evaluation.robustness.slips import misspelt, with_noisy_words
from tests.evaluation.robustness.conftest import CFG, TableModel

TEXT = "Anna Brackwater was born in 1874 and lived near the river Orlen, where she kept a small school for weavers"
LOWER = [word for word in re.findall(r"[^\W\d_]+", TEXT) if word.islower() and len(word) >= 3]


@given(st.floats(0.01, 0.5), st.integers(0, 1000))
@settings(max_examples=50)
def test_a_bounded_number_of_words_is_misspelt_and_no_name(rate: float, seed: int) -> None:
    told = misspelt(TEXT, rate, Random(seed)).split()
    assert len(told) == len(TEXT.split())
    pairs = [(one, other) for one, other in zip(TEXT.split(), told, strict=True) if one != other]
    assert len(pairs) == min(len(LOWER), max(1, round(rate * len(told))))
    assert all(one.strip(",") in LOWER and abs(len(one) - len(other)) <= 1 for one, other in pairs)


@given(st.floats(0.01, 0.5), st.integers(0, 1000))
@settings(max_examples=50)
def test_noise_only_adds_words(rate: float, seed: int) -> None:
    told = with_noisy_words(TEXT, rate, Random(seed)).split()
    assert len(told) == len(TEXT.split()) + min(len(LOWER), max(1, round(rate * len(TEXT.split()))))
    rest = iter(told)
    assert all(word in rest for word in TEXT.split()), "the words are still there, in order"


def test_a_text_of_names_and_numbers_stays() -> None:
    assert misspelt("Anna Brackwater, 1874 in", 0.5, Random(0)) == "Anna Brackwater, 1874 in"


def test_the_seed_decides() -> None:
    assert misspelt(TEXT, 0.3, Random(1)) == misspelt(TEXT, 0.3, Random(1)) != misspelt(TEXT, 0.3, Random(2))


def test_a_table_that_understands_slips_keeps_its_answers(items: list[Item], knowing: TableModel) -> None:
    rows = slip_scores(knowing, "robustness.typos", items, misspelt, CFG)
    own = [row.score for row in rows if row.format == ""]
    assert sum(own) / len(own) > 0.95
    for rate, most in (("10%", 0.15), ("30%", 0.3)):
        moved = [row for row in rows if (row.format, row.metric) == (rate, "changed")]
        assert len(moved) > 30
        assert sum(row.score for row in moved) / len(moved) <= most
    by_item = {(row.document, row.format, row.metric): row.score for row in rows}
    for (document, format, metric), score in by_item.items():
        if metric == "changed" and not score:
            assert by_item[document, format, "right"] == by_item[document, "", "right"]


def test_the_same_answer_to_everything_never_changes(items: list[Item], ignorant: TableModel) -> None:
    rows = slip_scores(ignorant, "robustness.noise", items, with_noisy_words, CFG)
    assert {row.score for row in rows} == {0.0}


def test_an_answer_is_the_words_that_it_needs() -> None:
    item = Item("id", "Where?", "Anna was born in", "New Orlen", (), ("New Orlen", "Pavia"))
    assert item.stated(" new Orlen, on the river") == ["new", "orlen"]
    assert not changed(["new", "orlen"], ["new", "orlen"])
    assert not changed(["new", "orlen"], ["new"]), "a shorter answer that is its beginning"
    assert changed(["new", "orlen"], ["new", "pavia"])
    assert changed(["new"], []), "silence is another answer"
