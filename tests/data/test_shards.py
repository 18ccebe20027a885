import pickle
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ArtifactError, DiskFullError
from components.data.shards import ShardSet, ShardWriter, token_dtype

BOUNDARY = 0
DOCUMENTS = st.lists(st.lists(st.integers(1, 299), max_size=20), min_size=1, max_size=12)


def write(folder: Path, documents: list[list[int]], shard_tokens: int = 7, vocab_size: int = 300) -> ShardSet:
    with ShardWriter(folder, vocab_size, BOUNDARY, shard_tokens) as writer:
        for number, ids in enumerate(documents):
            writer.add("train", ids, n_bytes=number)
    return ShardSet.open(folder)


@settings(deadline=None, max_examples=60)
@given(DOCUMENTS, st.integers(1, 30), st.data())
def test_any_slice_and_document_is_what_was_added(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], shard_tokens: int, data: st.DataObject
) -> None:
    split = write(tmp_path_factory.mktemp("shards"), documents, shard_tokens).splits["train"]
    row = [id for ids in documents for id in [*ids, BOUNDARY]]
    assert split.n_tokens == len(row)
    start = data.draw(st.integers(0, len(row)))
    stop = data.draw(st.integers(start, len(row)))
    assert split.slice(start, stop).tolist() == row[start:stop]
    assert [split.document(i).tolist() for i in range(split.n_documents)] == documents
    assert split.documents[:, 1].tolist() == [len(ids) for ids in documents]
    assert split.documents[:, 2].tolist() == list(range(len(documents)))


def test_splits_count_documents_tokens_and_bytes(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 300, BOUNDARY) as writer:
        writer.add("train", [5, 6], n_bytes=10)
        writer.add("test", np.array([7], dtype=np.uint16), n_bytes=3)
        writer.add("train", [], n_bytes=0)
    shards = ShardSet.open(tmp_path)
    assert (shards.vocab_size, shards.boundary_id) == (300, BOUNDARY)
    counts = {name: (split.n_documents, split.n_tokens, split.n_bytes) for name, split in shards.splits.items()}
    assert counts == {"train": (2, 4, 10), "test": (1, 2, 3)}


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, "<u2"), (65537, "<u4")])
def test_the_largest_id_survives(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    split = write(tmp_path, [[vocab_size - 1]], vocab_size=vocab_size).splits["train"]
    assert split.slice(0, 1).tolist() == [vocab_size - 1]
    assert split.slice(0, 1).dtype == token_dtype(vocab_size) == np.dtype(dtype)


def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="token 300 is outside the vocabulary of 300"):
        write(tmp_path, [[300]])


def test_tokens_cannot_be_changed_through_a_slice(tmp_path: Path) -> None:
    split = write(tmp_path, [[1, 2, 3]], shard_tokens=100).splits["train"]
    with pytest.raises(ValueError, match="read-only"):
        split.slice(0, 2)[0] = 9


def test_a_slice_outside_the_split_is_refused(tmp_path: Path) -> None:
    split = write(tmp_path, [[1, 2, 3]]).splits["train"]
    with pytest.raises(IndexError, match=r"\[2, 5\) are outside split 'train' of 4 tokens"):
        split.slice(2, 5)


def test_a_loader_process_receives_the_place_and_not_the_tokens(tmp_path: Path) -> None:
    split = write(tmp_path, [[1] * 100_000], shard_tokens=1 << 20).splits["train"]
    split.slice(0, 10)
    sent = pickle.dumps(split)
    assert len(sent) < 2000
    assert pickle.loads(sent).slice(99_999, 100_001).tolist() == [1, BOUNDARY]


def test_leftovers_of_a_killed_run_do_not_reach_the_next(tmp_path: Path) -> None:
    killed = ShardWriter(tmp_path, 300, BOUNDARY, shard_tokens=4)
    for _ in range(5):
        killed.add("train", [1, 2, 3, 4], n_bytes=4)
    killed.add("test", [1], n_bytes=1)
    del killed  # neither closed nor abandoned
    with pytest.raises(ArtifactError, match="no finished shards"):
        ShardSet.open(tmp_path)
    shards = write(tmp_path, [[9]])
    assert set(shards.splits) == {"train"}
    assert {path.name for path in tmp_path.iterdir()} == {"index.json", "train-00000.bin", "train-documents.bin"}


def test_an_error_while_writing_leaves_no_index(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, 300, BOUNDARY) as writer:
            writer.add("train", [1], n_bytes=1)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert not (tmp_path / "index.json").exists()


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00001.bin", "train-documents.bin"])
@pytest.mark.parametrize("harm", ["cut", "removed"])
def test_missing_and_cut_files_are_noticed(tmp_path: Path, name: str, harm: str) -> None:
    write(tmp_path, [[1, 2, 3], [4, 5, 6, 7]])
    path = tmp_path / name
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with pytest.raises(ArtifactError, match=name):
        ShardSet.open(tmp_path)


def test_an_unreadable_index_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, [[1]])
    (tmp_path / "index.json").write_text('{"vocab_size": 3')
    with pytest.raises(ArtifactError, match=r"index\.json cannot be read"):
        ShardSet.open(tmp_path)


def test_a_full_disk_is_named_and_leaves_no_index(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the limit kills instead of failing the write
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DiskFullError, match=r"no space left while writing .*train-00000\.bin"):
            write(tmp_path, [[1] * 5000] * 100, shard_tokens=1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not (tmp_path / "index.json").exists()
