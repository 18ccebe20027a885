import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.data.tokenizer import TextTokenizer, train_tokenizer
from components.labelling.alignment import factual_tokens, runs
from components.labelling.annotators.base import as_words

AWKWARD = [
    "Łódź lies on the Ner. ",
    unicodedata.normalize("NFD", "Łódź, São Tomé and Ångström "),
    "👩‍👩‍👧 met 🇵🇱 in 1987\u3000東京 ",
    "x\u0301\u0323y  \n\n\tz ",
]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    # Few merges: names and signs beyond ASCII stay in pieces, some of them within one character.
    return TextTokenizer(train_tokenizer(["the man was born in the town of the river " * 40, *AWKWARD * 3], 320))


def tokens_of(tokenizer: TextTokenizer, text: str) -> list[bytes]:
    return [tokenizer.token_bytes(id) for id in tokenizer.encode(text)]


def marked(tokenizer: TextTokenizer, text: str, words: list[tuple[int, int]], subwords: str = "all") -> list[bytes]:
    tokens = tokens_of(tokenizer, text)
    bits = factual_tokens(text, np.array([len(token) for token in tokens]), as_words(words), subwords)  # type: ignore[arg-type]
    assert bits.dtype == bool
    assert bits.shape == (len(tokens),)
    return [token for token, bit in zip(tokens, bits, strict=True) if bit]


def by_definition(tokens: list[bytes], text: str, words: list[tuple[int, int]]) -> list[bool]:
    """The rule as it is written down, byte by byte."""
    owner = [index for index, character in enumerate(text) for _ in character.encode()]
    bits, start = [], 0
    for token in tokens:
        visible = [owner[b] for b in range(start, start + len(token)) if not text[owner[b]].isspace()]
        bits.append(bool(visible) and any(low <= visible[0] < high for low, high in words))
        start += len(token)
    return bits


@st.composite
def texts_and_words(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    text = draw(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" aŁ\n\u0301👩"))))
    borders = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    return text, list(zip(borders[::2], borders[1::2], strict=False))


@given(case=texts_and_words())
@example(case=(AWKWARD[0], [(0, 4)]))
@example(case=(AWKWARD[2], [(0, 5), (10, 12)]))
@example(case=("", []))
@settings(max_examples=150, deadline=None)
def test_a_token_is_factual_if_its_first_visible_character_is(
    tokenizer: TextTokenizer, case: tuple[str, list[tuple[int, int]]]
) -> None:
    text, words = case
    tokens = tokens_of(tokenizer, text)
    bits = factual_tokens(text, np.array([len(token) for token in tokens], dtype=int), as_words(words))
    assert bits.tolist() == by_definition(tokens, text, words)


@pytest.mark.parametrize(
    "text", ["in Łódź, by", unicodedata.normalize("NFD", "in Łódź, by"), "in 👩‍👩‍👧, by", "in 東京, by"]
)
def test_the_marked_tokens_spell_the_word(tokenizer: TextTokenizer, text: str) -> None:
    end = text.index(",")
    found = marked(tokenizer, text, [(3, end)])
    assert b"".join(found).decode().strip() == text[3:end]
    assert len(found) > 1, "the word should be in pieces"
    assert b"".join(marked(tokenizer, text, [(3, end)], "first")) == found[0]


def test_leading_space_belongs_to_the_word_and_white_space_alone_to_none(tokenizer: TextTokenizer) -> None:
    assert marked(tokenizer, "a  born\n\nb", [(0, 10)]) == [
        token for token in tokens_of(tokenizer, "a  born\n\nb") if token.strip()
    ]


def test_first_marks_one_token_a_word_and_span_first_one_a_run(tokenizer: TextTokenizer) -> None:
    text = "Łódź Łódź, Łódź\nŁódź"
    words = [(0, 4), (5, 9), (11, 15), (16, 20)]
    assert len(marked(tokenizer, text, words, "first")) == 4
    assert len(marked(tokenizer, text, words, "span_first")) == 3
    assert runs(text, as_words(words)).tolist() == [[0, 9], [11, 15], [16, 20]]


def test_tokens_of_another_text_are_refused() -> None:
    with pytest.raises(ValueError, match="spell 5 bytes and the text has 4"):
        factual_tokens("born", np.array([2, 3]), as_words([]))
