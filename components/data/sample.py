"""A bounded sample of a stream, the same whatever the stream's order."""

import heapq
import itertools


class Sample:
    """Keeps the documents of smallest position until they fill ``budget_bytes``.

    The result is the shortest run of documents, in order of position, that reaches the budget; it depends on the set of
    documents only. At most the budget and one document are held at any time.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._bytes = 0
        self._heap: list[tuple[float, int, bytes]] = []  # largest position on top
        self._arrival = itertools.count()

    def offer(self, position: float, text: bytes) -> None:
        """Consider one document; one larger than the whole budget counts with its beginning."""
        if self._bytes >= self._budget_bytes and position >= -self._heap[0][0]:
            return
        text = text[: self._budget_bytes]
        heapq.heappush(self._heap, (-position, next(self._arrival), text))
        self._bytes += len(text)
        while self._bytes - len(self._heap[0][2]) >= self._budget_bytes:
            self._bytes -= len(heapq.heappop(self._heap)[2])

    def texts(self) -> list[str]:
        """The sample in order of position; a character cut at the end of the budget is dropped."""
        ordered = sorted(self._heap, key=lambda entry: (-entry[0], entry[2]))
        return [text.decode("utf-8", errors="ignore") for _, _, text in ordered]
