"""MinHash finds the pairs that resemble each other, and an exact comparison keeps no others."""

from random import Random

import pytest

from components.evaluation.contamination.near_duplicates import NearDuplicateIndex
from components.evaluation.contamination.words import HashedText, WordHashes, blocks, runs

HASHES = WordHashes()


def words(random: Random, count: int) -> list[str]:
    return [f"w{random.randrange(5000)}" for _ in range(count)]


def shingles(text: list[str]) -> set[tuple[str, ...]]:
    return {tuple(text[at : at + 5]) for at in range(len(text) - 4)}


@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_pairs_above_the_threshold_are_found_with_their_resemblance(threshold: float) -> None:
    random = Random(1)
    known, texts = [], []
    for number in range(100):
        original = words(random, 150)
        copy = [f"x{random.randrange(10**9)}" if random.random() < number / 2000 else word for word in original]
        known.append(original)
        texts.append(copy)
    index = NearDuplicateIndex([HASHES.of(" ".join(each)) for each in known], 5, threshold)
    found = {(a, b): s for a, b, s in index.duplicates([HASHES.of(" ".join(each)) for each in texts])}
    exact = {
        number: len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))
        for number, (a, b) in enumerate(zip(known, texts, strict=True))
    }
    expected = {(number, number) for number, similarity in exact.items() if similarity >= threshold}
    assert 20 < len(expected) < 100
    assert found.keys() <= expected
    assert len(expected - found.keys()) <= 1  # a candidate is missed with a probability of 0.1 % at 0.7
    for (number, _), similarity in found.items():
        assert similarity == pytest.approx(exact[number], abs=1e-9)


def test_texts_without_a_run_resemble_nothing() -> None:
    index = NearDuplicateIndex([HASHES.of("four words are few"), HASHES.of("")], 5, 0.1)
    assert list(index.duplicates([HASHES.of("four words are few"), HASHES.of("")])) == []
    assert list(NearDuplicateIndex([], 5, 0.1).duplicates([HASHES.of("a b c d e f")])) == []


def test_equal_runs_have_equal_hashes_and_others_do_not() -> None:
    found = runs(HASHES.of("a b c a b c b a"), 3).tolist()
    assert found[0] == found[3]
    assert len(set(found)) == 5
    assert runs(HASHES.of("a b"), 3).tolist() == []


def test_blocks_hold_every_text_once_in_order() -> None:
    texts = [f"text {number} " + "word " * number for number in range(300)]
    grouped = [text.text for block in blocks(texts, HASHES) for text in block]
    assert grouped == texts
    assert HashedText.of("one two\nthree", HASHES).words.tolist() == HASHES.of("one two three").tolist()
