"""Text that can be sent already: whole characters only, and nothing that may be the beginning of a stop string.

Tokens are sequences of bytes. A character may be spread over several tokens, and a stop string over many. Incomplete
text is held back, so that a client that concatenates the deltas never sees a broken character or half a stop string,
and the stream does not depend on how the text was split into tokens.
"""

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Bytes in, whole characters out.

    Bytes that can be no UTF-8 become U+FFFD at once; an incomplete character at the end of a text is never returned.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, piece: bytes) -> str:
        """Characters completed by ``piece``."""
        return self._decoder.decode(piece)


class StopMatcher:
    """Cuts a text before the stop string that is completed first (the longest one if two end together)."""

    def __init__(self, stops: Sequence[str]) -> None:
        """``stops`` are non-empty strings; none at all means that nothing is held back."""
        self._stops = sorted(stops, key=len, reverse=True)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Part of the text that can be shown now; after a match ``stopped`` is true and nothing follows."""
        if self.stopped:
            return ""
        text = self._held + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            return text[: min(ends)[1]]
        keep = self._held_length(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, once no more text can follow."""
        held, self._held = self._held, ""
        return held

    def _held_length(self, text: str) -> int:
        """Length of the longest end of ``text`` with which a stop string begins."""
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
