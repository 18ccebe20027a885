"""Annotators that look at the surface alone: controls, capitals; and the pieces around them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.labelling.annotators.base import as_words
from components.labelling.annotators.calculations import Calculations
from components.labelling.annotators.capitals import Capitals
from components.labelling.annotators.chunks import chunks
from components.labelling.annotators.control import Control, ControlRules
from components.labelling.annotators.copied import without_copied


def found(annotator: Capitals | Calculations | Control, text: str) -> list[str]:
    (annotation,) = annotator.annotate([text])
    return [text[start:end] for start, end in annotation.words.tolist()]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("digits_only", ["1815", "3,400", "A4", "1852"]),
        ("all", ["Born", "(1815)", "with", "3,400", "A4", "sheets–1852."]),
        ("none", []),
    ],
)
def test_controls(rules: ControlRules, expected: list[str]) -> None:
    assert found(Control(rules), "Born (1815) with 3,400 A4 sheets–1852.") == expected


def test_capitals_mark_names_and_digits_within_sentences() -> None:
    text = "He met Ada Lovelace in 1833. Then I'm told she, J. Smith and Dr. Jones left Łódź at 8.30."
    assert found(Capitals(), text) == ["Ada", "Lovelace", "1833", "J", "Smith", "Dr", "Jones", "Łódź", "8.30"]


def test_calculations_mark_right_results_and_nothing_else() -> None:
    text = "48/2 = <<48/2=24>>24 clips for $<<3*.50=1.50>>1.50, not <<2+2=5>>5, <<1/0=0>> or <<2+2>>."
    assert found(Calculations(), text) == ["24", "1.50"]


def test_a_word_that_opens_a_sentence_counts_if_it_is_a_name_elsewhere() -> None:
    text = "Lovelace wrote notes. Many read Lovelace.\nThe notes stayed. “Lovelace knew.”"
    assert found(Capitals(), text) == ["Lovelace"] * 3


def test_decomposed_words_are_whole() -> None:
    text = "She saw A\u030angstro\u0308m there"
    assert found(Capitals(), text) == ["A\u030angstro\u0308m"]


def test_capitals_know_when_a_script_has_none() -> None:
    english, japanese, short = Capitals().annotate(["a b c d e f g h " * 9, "東京は日本の首都である。" * 9, "東京"])
    assert (english.familiar, japanese.familiar, short.familiar) == (True, False, None)


def test_what_was_said_before_is_copied() -> None:
    text = "Ada Lovelace met Babbage. Lovelace wrote. Charles Babbage read Ada Lovelace in 1843, 1843."
    words = as_words([match.span() for match in re.finditer(r"[A-Z]\w+|\d+", text)])
    kept = [text[start:end] for start, end in without_copied(text, words).tolist()]
    assert kept == ["Ada", "Lovelace", "Babbage", "Charles", "Babbage", "1843"]


@given(st.text(st.sampled_from("a. \n!"), max_size=300), st.integers(1, 40))
def test_chunks_are_the_text(text: str, longest: int) -> None:
    pieces = list(chunks(text, longest))
    assert "".join(piece for _, piece in pieces) == text
    assert all(0 < len(piece) <= longest and text.startswith(piece, offset) for offset, piece in pieces)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("aaa aaa.\n\nbbb bbb. ccc", "aaa aaa.\n\n"),
        ("aaaa aaaa aaaa. bbb ccc", "aaaa aaaa aaaa. "),
        ("aaaa aaaa aaaabbb ccc", "aaaa aaaa "),
        ("a" * 40, "a" * 16),
    ],
)
def test_chunks_end_at_the_best_border(text: str, first: str) -> None:
    assert next(chunks(text, 16)) == (0, first)
