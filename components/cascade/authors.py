"""Who wrote which characters of an answer: spans of text, made from the authors of its tokens."""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from components.cascade.decoding import Author, CascadeToken
from components.data.tokenizer import TextTokenizer


class AuthorSpan(NamedTuple):
    """Neighbouring characters by one author."""

    author: Author
    start: int
    """First character."""
    end: int
    """The character after the last one."""
    text: str
    """The characters themselves."""


def answer_spans(tokens: Sequence[CascadeToken], tokenizer: TextTokenizer) -> list[AuthorSpan]:
    """Spans of a whole answer. Their texts joined are its text, without a character that its end leaves incomplete."""
    return author_spans(_pieces(tokens, tokenizer))


def author_spans(pieces: Iterable[tuple[Author, str]], start: int = 0, end: int | None = None) -> list[AuthorSpan]:
    """Join neighbouring ``pieces`` by the same author.

    Arguments:
        pieces: authors and texts in the order of the answer; a text may be empty.
        start: position of the first character.
        end: where the answer ends; what lies beyond it (in a stop string) is left out. ``None`` keeps everything.
    """
    spans: list[AuthorSpan] = []
    at = start
    for author, text in pieces:
        shown = text if end is None else text[: max(0, end - at)]
        if not shown:
            continue
        if spans and spans[-1].author == author:
            last = spans.pop()
            spans.append(AuthorSpan(author, last.start, last.end + len(shown), last.text + shown))
        else:
            spans.append(AuthorSpan(author, at, at + len(shown), shown))
        at += len(shown)
    return spans


def _pieces(tokens: Sequence[CascadeToken], tokenizer: TextTokenizer) -> Iterator[tuple[Author, str]]:
    """A character that is spread over several tokens belongs to the one that completes it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        yield token.author, decoder.decode(tokenizer.token_bytes(token.id))
