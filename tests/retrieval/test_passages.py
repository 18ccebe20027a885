"""Pieces of text, and that nothing of it is lost."""

from hypothesis import given
from hypothesis import strategies as st

from components.retrieval.passages import CHUNK, passages

TEXTS = st.text(st.sampled_from("ab'. \n!é"), max_size=200)


@given(TEXTS, st.integers(1, 12))
def test_pieces_are_the_text_from_its_first_word_on(text: str, most: int) -> None:
    for word, whole_sentences in ((CHUNK, False), (CHUNK, True)):
        found = list(passages(text, most, word=word, whole_sentences=whole_sentences))
        assert "".join(found) == text.lstrip()
        assert all(1 <= len(piece.split()) <= most for piece in found)


def test_pieces_overlap_by_as_many_words_as_asked_for() -> None:
    text = " ".join(f"w{number}" for number in range(10))
    assert list(passages(text, 4, overlap_words=1)) == ["w0 w1 w2 w3 ", "w3 w4 w5 w6 ", "w6 w7 w8 w9"]


def test_a_piece_ends_with_a_sentence_if_one_ends_in_its_second_half() -> None:
    text = "a b c. d e f g h i. j"
    assert list(passages(text, 4, word=CHUNK, whole_sentences=True)) == ["a b c. ", "d e f g ", "h i. j"]
