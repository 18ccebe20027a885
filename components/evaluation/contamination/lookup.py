"""A million hashes with their owners, looked up by the million."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt64

_FILTER_BITS = 24
_SHIFT = np.uint64(64 - _FILTER_BITS)


class Lookup:
    """Who owns a hash? A table by the first bits of a hash (16 MiB) leaves few for the search in the sorted rest."""

    def __init__(self, hashes: UInt64[np.ndarray, " keys"], owners: Int[np.ndarray, " keys"]) -> None:
        """A hash may occur more than once, with different owners."""
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]
        self._occurs = np.zeros(1 << _FILTER_BITS, dtype=bool)
        self._occurs[hashes >> _SHIFT] = True

    def matches(self, hashes: UInt64[np.ndarray, " queries"]) -> Iterator[tuple[int, int]]:
        """The place of each of ``hashes`` that is known, in order, once for each owner, and that owner."""
        places = np.flatnonzero(self._occurs[hashes >> _SHIFT])
        wanted = hashes[places]
        first, last = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        for hit in np.flatnonzero(last > first).tolist():
            for owner in self._owners[first[hit] : last[hit]].tolist():
                yield int(places[hit]), owner
