from hypothesis import given
from hypothesis import strategies as st

from components.data.split import SPLITS, TEST, TRAIN, position, split_of

TEXTS = st.lists(st.binary(max_size=40), max_size=50)


def sides(texts: list[bytes], validation: float = 0.2, test: float = 0.2) -> dict[bytes, str]:
    return {text: split_of(position(text), validation, test) for text in texts}


@given(TEXTS, TEXTS)
def test_a_document_never_changes_side_when_data_is_added(before: list[bytes], added: list[bytes]) -> None:
    assert sides(added + before).items() >= sides(before).items()


def test_sides_are_fixed_for_all_time() -> None:
    # A change here would move documents between the splits of every data version made so far.
    assert position(b"lacewing") == 0.11892214914494892
    assert [split_of(position(str(number).encode()), 0.3, 0.3) for number in range(6)] == [
        "validation",
        "train",
        "train",
        "train",
        "test",
        "train",
    ]


@given(st.binary(), st.floats(0.01, 0.3), st.floats(0.0, 0.2), st.floats(0.01, 0.2))
def test_a_larger_validation_fraction_takes_from_train_only(
    text: bytes, validation: float, more: float, test: float
) -> None:
    small, large = split_of(position(text), validation, test), split_of(position(text), validation + more, test)
    assert small in (large, TRAIN)
    assert (small == TEST) == (large == TEST)


def test_fractions_are_met() -> None:
    assigned = [split_of(position(b"%d" % number), 0.05, 0.1) for number in range(20_000)]
    shares = {split: assigned.count(split) / len(assigned) for split in SPLITS}
    assert abs(shares["validation"] - 0.05) < 0.005
    assert abs(shares["test"] - 0.1) < 0.007
