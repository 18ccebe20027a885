"""Conversations packed into windows of exactly the context length, so that none is cut by a window's end.

Each conversation is a document: a boundary token follows it, and attention does not cross that. The largest goes first,
each into the window with the least room that still holds it ("best fit, decreasing"). The rest of a window is filled
with padding tokens before its last boundary; nothing is learnt from them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int, Shaped

from components.data.chats.columns import ASSISTANT, LEARNT, STATED
from components.data.columns import ColumnsWriter
from components.data.packing import best_fit
from components.data.shards import ShardWriter

# So many conversations are fitted together: memory holds them, and more would hardly fill windows better.
_FITTED_TOGETHER = 8192

_T = TypeVar("_T")


class Document(NamedTuple):
    """What stands between two boundaries of a window, and what is known of its tokens."""

    ids: Int[np.ndarray, " tokens"]
    n_bytes: int
    assistant: Bool[np.ndarray, " tokens"]
    learnt: Bool[np.ndarray, " tokens"]
    stated: Bool[np.ndarray, " tokens"]


class WindowWriter:
    """Writes windows to shards, and beside them the columns."""

    def __init__(self, shards: ShardWriter, columns: ColumnsWriter, context_length: int, padding_id: int) -> None:
        self._shards, self._columns = shards, columns
        self._length, self._padding = context_length, padding_id
        self.padding = 0
        """Padding tokens written."""

    def pack(self, split: str, documents: Iterable[Document]) -> int:
        """Write ``documents`` in as few windows as they fit; returns how many."""
        windows = 0
        for some in _batches(documents, _FITTED_TOGETHER):
            for members in best_fit([len(each.ids) + 1 for each in some], self._length):
                self.write(split, [some[member] for member in members])
                windows += 1
        return windows

    def write(self, split: str, window: Sequence[Document]) -> None:
        """Write one window."""
        rest = self._length - sum(len(each.ids) + 1 for each in window)
        assert rest >= 0, rest
        for document in window[:-1]:
            self._document(split, document, 0)
        self._document(split, window[-1], rest)

    def finish(self, split: str) -> None:
        """Add the one token that the last target of the last window needs."""
        nothing = np.zeros(0, dtype=bool)
        self._document(split, Document(np.zeros(0, dtype=np.int64), 0, nothing, nothing, nothing), 0)

    def _document(self, split: str, document: Document, rest: int) -> None:
        self.padding += rest
        padded = np.concatenate([document.ids, np.full(rest, self._padding)])
        self._shards.add(split, padded, document.n_bytes)
        self._columns.append(split, {name: _padded(bits, rest + 1) for name, bits in _columns(document).items()})


def _columns(document: Document) -> Mapping[str, Bool[np.ndarray, " tokens"]]:
    return {ASSISTANT: document.assistant, LEARNT: document.learnt, STATED: document.stated}


def _padded(bits: Bool[np.ndarray, " tokens"], rest: int) -> Shaped[np.ndarray, " padded"]:
    return np.concatenate([bits, np.zeros(rest, dtype=bool)])


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
