"""Which documents share a window, so that none is cut by a window's end.

Best fit, decreasing: the largest goes first, each into the window with the least room that still holds it. It never
needs more than 11/9 of the fewest possible windows, and one (Johnson 1973, Near-optimal bin packing algorithms).
"""

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Which items share a window: numbers of items, each of at most ``room``; equal sizes keep their order."""
    windows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # room left and number of each window, ascending
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        assert sizes[item] <= room, (sizes[item], room)
        place = bisect_left(left, (sizes[item], -1))
        space, window = left.pop(place) if place < len(left) else (room, len(windows))
        if window == len(windows):
            windows.append([])
        windows[window].append(item)
        insort(left, (space - sizes[item], window))
    return windows
