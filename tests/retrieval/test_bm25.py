"""Which passages share most rare words with a query."""

from pathlib import Path

from components.retrieval.bm25 import Bm25

PASSAGES = [text.split() for text in ("the cat sat", "the dog sat", "the cat and the dog", "the cat sat", "")]


def test_rare_words_weigh_more_and_of_equals_the_earlier_comes_first() -> None:
    bm25 = Bm25.over(PASSAGES)
    assert bm25.best(["and"], 5) == [2]
    assert bm25.best(["cat", "sat"], 5)[:2] == [0, 3]
    assert bm25.best(["cat", "sat"], 1) == [0]
    assert bm25.best(["sat"], 2) == [0, 1]


def test_what_nobody_says_is_found_nowhere() -> None:
    assert Bm25.over(PASSAGES).best(["bird"], 5) == []
    assert Bm25.over([[], []]).best(["bird"], 5) == []
    assert Bm25.over([]).words == 0


def test_the_share_of_a_word_is_of_passages() -> None:
    bm25 = Bm25.over(PASSAGES)
    assert (bm25.share("the"), bm25.share("cat"), bm25.share("bird")) == (4 / 5, 3 / 5, 0.0)


def test_a_saved_index_answers_the_same(tmp_path: Path) -> None:
    bm25 = Bm25.over(PASSAGES)
    bm25.save(tmp_path)
    assert Bm25.load(tmp_path, len(PASSAGES)).best(["dog", "and"], 3) == bm25.best(["dog", "and"], 3)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pkl", ".pickle")]
