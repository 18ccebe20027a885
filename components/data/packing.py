"""Which sequences share a window: best fit, so that little of a window is left empty.

Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830): best-fit decreasing needs hardly
more windows than cutting would, and cuts nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """The indices of ``lengths`` by window, no window longer than ``room``; every index is in exactly one.

    The longest come first, each into the fullest window that still has room for it. The same lengths give the same
    windows. Raises ``ValueError`` for a length that no window can hold.
    """
    windows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # tokens left and number of each window that is not full, ascending
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if not 0 < length <= room:
            raise ValueError(f"a sequence of {length} tokens does not fit a window of {room}")
        place = bisect_left(left, (length, 0))
        free, window = left.pop(place) if place < len(left) else (room, len(windows))
        if window == len(windows):
            windows.append([])
        windows[window].append(index)
        if free > length:
            insort(left, (free - length, window))
    return windows
