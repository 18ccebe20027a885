import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.data.encoder import LONGEST_REMEMBERED, Encoder, pieces
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


def test_long_pieces_are_not_remembered(tokenizer: TextTokenizer) -> None:
    encoder = Encoder(tokenizer)
    unspaced = "漢" * (LONGEST_REMEMBERED + 1)
    [ids] = encoder.encode([unspaced])
    assert tokenizer.decode(ids.tolist()) == unspaced
    assert unspaced not in encoder._ids_of
