import base64
import itertools
import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.data.encoder import LONGEST_REMEMBERED, LONGEST_SECTION, SECTION_END, Encoder, pieces, sections
from components.data.sources import pydoc_topics
from components.data.tokenizer import TextTokenizer

# White space of every kind, contractions, digits and signs, in the mixtures in which cutting could go wrong.
TROUBLE = (
    st.text(st.sampled_from(" \n\r\t\u00a0\u2003\u2028\x85\x1c'sſtredm19²½,.!-<|CALL>aé漢\u0301👩\ufeff")) | st.text()
)


@settings(deadline=None, max_examples=500)
@given(st.lists(TROUBLE, max_size=6))
@example(["a b", " a b ", "a  b", "a\n b", "a \nb", "don't 's 'S", "", " ", "1234 5678 ,. ,"])
def test_ids_equal_those_of_the_tokenizer(tokenizer: TextTokenizer, texts: list[str]) -> None:
    encoder = Encoder(tokenizer)
    expected = [tokenizer.encode(text) for text in texts]
    assert [ids.tolist() for ids in encoder.encode(texts)] == expected
    assert [ids.tolist() for ids in encoder.encode(texts)] == expected, "second time, from memory"


@settings(deadline=None, max_examples=300)
@given(TROUBLE)
def test_pieces_join_to_the_text_and_are_cut_at_lone_spaces_only(text: str) -> None:
    found = pieces(text)
    assert "".join(found) == text
    assert all(re.match(r" (\S|$)", piece) for piece in found[1:])


def test_real_text_is_encoded_alike_and_memory_is_bounded(tokenizer: TextTokenizer) -> None:
    texts = sorted(pydoc_topics().values())
    encoder = Encoder(tokenizer, remembered_pieces=5000)
    for start in range(0, len(texts), 4):
        batch = texts[start : start + 4]
        assert [ids.tolist() for ids in encoder.encode(batch)] == tokenizer.encode_batch(batch)
        needed = len({piece for text in batch for piece in pieces(text)})
        assert len(encoder._ids_of) <= max(5000, needed) + 1


@settings(deadline=None, max_examples=300)
@given(st.lists(TROUBLE | st.sampled_from(["word", " word", "aB3+/=", "0123", "\n\n", "don't"]), max_size=12))
@example(["a" * 40])
@example(["3f9Cz+/" * 20])
def test_sections_are_short_and_no_token_crosses_a_cut_that_has_a_place(
    tokenizer: TextTokenizer, parts: list[str]
) -> None:
    text = "".join(parts)
    found = list(sections(text, 16))
    assert "".join(found) == text
    assert all(0 < len(section) <= 16 for section in found[:-1])
    ids = [id for section in found for id in tokenizer.encode(section)]
    assert tokenizer.decode(ids) == text
    cuts = list(itertools.accumulate(map(len, found)))[:-1]
    if {cut for cut in cuts if not SECTION_END.match(text, cut)} == set():
        assert ids == tokenizer.encode(text)


def test_a_long_text_is_encoded_a_section_at_a_time_to_the_same_ids(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.data.encoder.LONGEST_SECTION", 1000)
    monkeypatch.setattr("components.data.encoder.sections", lambda text: sections(text, 1000))
    texts = [*sorted(pydoc_topics().values())[:40], base64.b64encode(random.Random(1).randbytes(30_000)).decode()]
    told: list[tuple[int, int]] = []
    encoded = Encoder(tokenizer).encode(texts, lambda done, total: told.append((done, total)))
    assert [ids.tolist() for ids in encoded] == tokenizer.encode_batch(texts)
    assert told[-1] == (40_000, 40_000)
    assert len([done for done, total in told if total == 40_000]) >= 40


def test_a_word_longer_than_a_section_comes_back(tokenizer: TextTokenizer) -> None:
    word = "漢字" * (LONGEST_SECTION // 2 + 500)
    [ids] = Encoder(tokenizer).encode([word])
    assert tokenizer.decode(ids.tolist()) == word


def test_long_pieces_are_not_remembered(tokenizer: TextTokenizer) -> None:
    encoder = Encoder(tokenizer)
    unspaced = "漢" * (LONGEST_REMEMBERED + 1)
    [ids] = encoder.encode([unspaced])
    assert tokenizer.decode(ids.tolist()) == unspaced
    assert unspaced not in encoder._ids_of
