"""Spans of text by their authors."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from components.cascade.authors import AuthorSpan, answer_spans, author_spans
from components.cascade.decoding import Author, CascadeToken
from tests import fakes

PIECES = st.lists(st.tuples(st.sampled_from(["small", "helper"]), st.text(max_size=5)), max_size=12)


def test_neighbouring_pieces_of_one_author_are_one_span() -> None:
    pieces: list[tuple[Author, str]] = [("small", "The "), ("small", "river "), ("helper", "Drau"), ("small", ".")]
    assert author_spans(pieces) == [
        AuthorSpan("small", 0, 10, "The river "),
        AuthorSpan("helper", 10, 14, "Drau"),
        AuthorSpan("small", 14, 15, "."),
    ]


def test_spans_end_where_the_answer_ends() -> None:
    pieces: list[tuple[Author, str]] = [("small", "on the "), ("helper", "Drau"), ("small", ". It")]
    assert author_spans(pieces, start=5, end=14) == [
        AuthorSpan("small", 5, 12, "on the "),
        AuthorSpan("helper", 12, 14, "Dr"),
    ]


@given(PIECES, st.integers(0, 9), st.integers(0, 60))
def test_spans_follow_each_other_and_make_up_the_text(
    pieces: list[tuple[Author, str]], start: int, length: int
) -> None:
    text = "".join(piece for _, piece in pieces)[:length]
    spans = author_spans(pieces, start, start + length)
    assert "".join(span.text for span in spans) == text
    assert [span.start for span in spans] == [start, *(span.end for span in spans)][: len(spans)]
    assert all(span.text and span.end - span.start == len(span.text) for span in spans)
    assert all(one.author != other.author for one, other in pairwise(spans))
    characters = [author for author, piece in pieces for _ in piece][:length]
    assert [span.author for span in spans for _ in span.text] == characters


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    tokenizer = fakes.tokenizer()
    ids = tokenizer.encode("a🙂b")
    assert len(ids) == 6, "the emoji is four tokens"
    authors: list[Author] = ["small", "small", "small", "small", "helper", "small"]
    tokens = [CascadeToken(id, author, 0.0, 0.0, 0.0, None) for id, author in zip(ids, authors, strict=True)]
    assert answer_spans(tokens, tokenizer) == [
        AuthorSpan("small", 0, 1, "a"),
        AuthorSpan("helper", 1, 2, "🙂"),
        AuthorSpan("small", 2, 3, "b"),
    ]
    assert answer_spans(tokens[:4], tokenizer) == [AuthorSpan("small", 0, 1, "a")]
