"""Columns beside the shards: what is written is read, at the token it belongs to, or refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ArtifactError
from components.data.columns import BIT, INDEX, Columns, ColumnsWriter, ColumnType
from components.data.shards import ShardSet, ShardWriter
from components.training.loader import IGNORED, ValidationBatches

TYPES = {
    "assistant": BIT,
    "weight": ColumnType(dtype="float16", fill=1.0),
    "teacher": ColumnType(dtype="int32", width=3, fill=-1),
}


def shards_of(folder: Path, documents: list[list[int]]) -> ShardSet:
    with ShardWriter(folder, vocab_size=50, boundary_id=0, shard_tokens=7) as writer:
        for split in ("train", "validation"):
            for document in documents:
                writer.add(split, document, n_bytes=len(document))
    return ShardSet.open(folder)


def written(folder: Path, shards: ShardSet, piece: int = 5) -> Columns:
    """Values that can be told from the token and its place."""
    with ColumnsWriter(folder, TYPES) as writer:
        for name, split in shards.splits.items():
            for start in range(0, split.n_tokens, piece):
                tokens = split.slice(start, min(start + piece, split.n_tokens)).astype(np.int64)
                rows = np.stack([tokens, tokens + 1, tokens + 2], axis=1)
                writer.append(name, {"assistant": tokens % 2 == 1, "weight": tokens / 2, "teacher": rows})
        writer.finish(shards)
    return Columns.open(folder, shards)


@settings(max_examples=25, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(1, 49), min_size=1, max_size=12), min_size=1, max_size=6),
    piece=st.integers(1, 20),
    data=st.data(),
)
def test_any_slice_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], piece: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("columns")
    shards = shards_of(folder / "written", documents)
    columns = written(folder / "beside", shards, piece)
    split = shards.splits["train"]
    start = data.draw(st.integers(0, split.n_tokens))
    stop = data.draw(st.integers(start, split.n_tokens))
    tokens = split.slice(start, stop).astype(np.int64)
    assert (columns["assistant"].slice("train", start, stop) == (tokens % 2 == 1)).all()
    assert (columns["weight"].slice("train", start, stop) == tokens / 2).all()
    assert (columns["teacher"].slice("train", start, stop) == tokens[:, None] + np.arange(3)).all()


def test_a_batch_has_the_values_at_the_targets_and_the_filling_where_there_is_none(tmp_path: Path) -> None:
    shards = shards_of(tmp_path / "shards", [[1, 2, 3], [4, 5, 6, 7, 8]])
    columns = written(tmp_path / "columns", shards)
    (batch,) = ValidationBatches(shards.splits["validation"], 16, 0, batch_size=2, batches=1, columns=columns)
    known = batch.targets != IGNORED
    assert known.sum() == shards.splits["validation"].n_tokens - 1
    assert torch.equal(batch.columns["assistant"][known], batch.targets[known] % 2 == 1)
    assert torch.equal(batch.columns["teacher"][known][:, 2].long(), batch.targets[known] + 2)
    assert batch.columns["teacher"].shape == (*batch.targets.shape, 3)
    assert (batch.columns["weight"][~known] == 1).all()
    assert (batch.columns["teacher"][~known] == -1).all()
    assert not batch.columns["assistant"][~known].any()


def test_a_column_travels_to_another_process_without_its_bytes(tmp_path: Path) -> None:
    columns = written(tmp_path / "columns", shards_of(tmp_path / "shards", [[1] * 40] * 100))
    columns["teacher"].slice("train", 0, 10)
    travelled = pickle.dumps(columns["teacher"])
    assert len(travelled) < 2000
    assert (pickle.loads(travelled).slice("train", 0, 4) == columns["teacher"].slice("train", 0, 4)).all()


def test_columns_of_other_shards_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "columns", shards_of(tmp_path / "shards", [[1, 2, 3], [4]]))
    with pytest.raises(ArtifactError, match="other shards"):
        Columns.open(tmp_path / "columns", shards_of(tmp_path / "others", [[1, 2], [3, 4]]))


def test_damaged_and_unfinished_columns_are_refused_by_name(tmp_path: Path) -> None:
    shards = shards_of(tmp_path / "shards", [[1, 2, 3], [4]])
    written(tmp_path / "columns", shards)
    file = tmp_path / "columns" / "weight-train.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(ArtifactError, match=r"weight-train.bin has 10 bytes, its index says 12"):
        Columns.open(tmp_path / "columns", shards)
    (tmp_path / "columns" / INDEX).unlink()
    with pytest.raises(ArtifactError, match="no finished columns"):
        Columns.open(tmp_path / "columns", shards)


def test_values_of_another_number_or_shape_are_refused(tmp_path: Path) -> None:
    shards = shards_of(tmp_path / "shards", [[1, 2, 3]])
    with (
        pytest.raises(ValueError, match="of equal length"),
        ColumnsWriter(tmp_path / "a", TYPES) as writer,
    ):
        writer.append("train", {"assistant": np.ones(2), "weight": np.ones(3), "teacher": np.ones((2, 3))})
    with pytest.raises(ValueError, match="takes values of shape"), ColumnsWriter(tmp_path / "b", {"a": BIT}) as writer:
        writer.append("train", {"a": np.ones((2, 3))})
    with ColumnsWriter(tmp_path / "c", {"a": BIT}) as writer:
        writer.append("train", {"a": np.ones(2)})
        with pytest.raises(ValueError, match="2 values for 4 of train"):
            writer.finish(shards)
    assert not (tmp_path / "c" / INDEX).exists()
