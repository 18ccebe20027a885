from hypothesis import given
from hypothesis import strategies as st

from components.data.sample import Sample
from components.data.split import position


def sample(texts: list[str], budget_bytes: int) -> list[str]:
    drawn = Sample(budget_bytes)
    for text in texts:
        drawn.offer(position(text.encode()), text.encode())
    return drawn.texts()


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=60), st.integers(1, 300), st.randoms())
def test_the_order_of_the_stream_does_not_matter(texts: list[str], budget_bytes: int, chance: object) -> None:
    shuffled = list(texts)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sample(texts, budget_bytes) == sample(shuffled, budget_bytes)


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=60), st.integers(1, 300))
def test_the_sample_reaches_the_budget_and_no_further_than_one_document(texts: list[str], budget_bytes: int) -> None:
    total = sum(len(text.encode()[:budget_bytes]) for text in texts)
    sizes = [len(text.encode()) for text in sample(texts, budget_bytes)]
    if total <= budget_bytes:
        assert len(sizes) == len(texts)
    else:
        assert sum(sizes) >= budget_bytes - 3  # a character cut at the end is dropped
        assert sum(sizes[:-1]) < budget_bytes


def test_a_document_larger_than_the_budget_counts_with_its_beginning() -> None:
    assert sample(["é" * 100], budget_bytes=9) == ["éééé"]
