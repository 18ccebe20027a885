"""Windows: full where they can be, never with a conversation cut, and nothing learnt of the padding."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.data.chats.columns import ASSISTANT, LEARNT, STATED
from components.data.chats.packing import Document, WindowWriter, best_fit
from components.data.columns import BIT, Columns, ColumnsWriter
from components.data.shards import ShardSet, ShardWriter
from components.training.loader import packed

ROOM, BOUNDARY, PADDING = 16, 0, 1


@given(st.lists(st.integers(1, ROOM), max_size=40))
def test_every_item_has_one_window_with_room_for_it(sizes: list[int]) -> None:
    windows = best_fit(sizes, ROOM)
    assert sorted(item for window in windows for item in window) == list(range(len(sizes)))
    filled = [sum(sizes[item] for item in window) for window in windows]
    assert all(0 < size <= ROOM for size in filled)
    assert sum(size * 2 <= ROOM for size in filled) <= 1, "two windows that are half empty would be one"


def test_the_fullest_window_that_has_room_is_taken() -> None:
    assert best_fit([10, 6, 4, 12], ROOM) == [[3, 2], [0, 1]]


def document(length: int) -> Document:
    said = np.arange(length) % 2 == 1
    return Document(np.full(length, 2 + length), length, said, said, said)


def test_windows_hold_conversations_whole_and_padding_is_not_learnt(tmp_path: Path) -> None:
    lengths = [5, 9, 15, 3, 7]
    types = dict.fromkeys((ASSISTANT, LEARNT, STATED), BIT)
    with ColumnsWriter(tmp_path / "columns", types) as columns:
        with ShardWriter(tmp_path / "shards", 64, BOUNDARY) as writer:
            windows = WindowWriter(writer, columns, ROOM, PADDING)
            assert windows.pack("train", map(document, lengths)) == 3
            windows.finish("train")
        shards = ShardSet.open(tmp_path / "shards")
        columns.finish(shards)
    split = shards.splits["train"]
    assert split.n_tokens == 3 * ROOM + 1
    batch = packed(split, [0, 1, 2], ROOM, BOUNDARY, Columns.open(tmp_path / "columns", shards))
    for length in lengths:
        rows, places = np.nonzero(batch.tokens.numpy() == 2 + length)
        assert len(set(rows)) == 1, "a conversation lies in one window"
        assert places.tolist() == list(range(places[0], places[0] + length))
        opened = int(places[0]) - 1 if places[0] else 0
        assert batch.document_start[rows[0], places].unique().tolist() == [opened], "it sees no other conversation"
    text = (batch.targets != PADDING) & (batch.targets != BOUNDARY)
    assert not (batch.columns[LEARNT] & ~text).any()
    assert int(batch.columns[LEARNT].sum()) == sum(length // 2 for length in lengths)
    assert windows.padding == sum(3 * [ROOM]) - sum(length + 1 for length in lengths)
