from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.packing import best_fit


@given(st.lists(st.integers(1, 20)), st.integers(20, 40))
def test_every_item_is_in_one_window_and_none_is_overfull(sizes: list[int], room: int) -> None:
    windows = best_fit(sizes, room)
    assert sorted(item for window in windows for item in window) == list(range(len(sizes)))
    assert all(sum(sizes[item] for item in window) <= room for window in windows)


@given(st.lists(st.integers(1, 20)), st.integers(20, 40))
def test_two_windows_are_never_both_half_empty(sizes: list[int], room: int) -> None:
    loads = sorted(sum(sizes[item] for item in window) for window in best_fit(sizes, room))
    assert all(one + other > room for one, other in pairwise(loads))


def test_each_item_goes_where_it_fits_best() -> None:
    assert best_fit([6, 3, 7, 2, 2], 10) == [[2, 1], [0, 3, 4]]


@pytest.mark.parametrize("length", [0, 33])
def test_what_no_window_can_hold_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"a sequence of {length} tokens does not fit a window of 32"):
        best_fit([1, length], 32)
