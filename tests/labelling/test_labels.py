import pickle
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import ArtifactError
from components.data.shards import ShardSet, ShardWriter, shards_digest
from components.data.tokenizer import tokenizer_digest
from components.labelling.labels import (
    BitsWriter,
    FactBits,
    LabelIndex,
    write_index,
)

DIGEST = "a" * 64
LENGTHS: dict[str, list[int]] = {"train": [5, 0, 17, 3], "validation": [1]}


def write_shards(folder: Path, lengths: dict[str, list[int]] = LENGTHS) -> ShardSet:
    with ShardWriter(folder, vocab_size=320, boundary_id=0, shard_tokens=11) as writer:
        for split, sizes in lengths.items():
            for size in sizes:
                writer.add(split, list(range(1, size + 1)), size)
    return ShardSet.open(folder)


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    return write_shards(tmp_path / "shards")


def write_bits(folder: Path, shards: ShardSet, splits: list[str] | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = {name: rng.random(shards.splits[name].n_tokens) < 0.5 for name in splits or shards.splits}
    records = {}
    for name, row in rows.items():
        with BitsWriter(folder, name) as writer:
            for start in range(0, len(row), 3):  # never a whole byte at once
                writer.append(row[start : start + 3])
        records[name] = writer.record
    write_index(
        folder,
        LabelIndex(
            annotator="capitals",
            rules="capitalised+digits",
            subwords="all",
            skip_copied=False,
            spacy="",
            pipeline="",
            pipeline_digest="",
            documents_by_annotator={"capitals": 5},
            tokenizer=DIGEST,
            shards=shards_digest(shards),
            splits=records,
        ),
    )
    return rows


def test_bits_come_back_from_any_slice(tmp_path: Path, shards: ShardSet) -> None:
    rows = write_bits(tmp_path / "facts", shards)
    labels = FactBits.open(tmp_path / "facts", shards, DIGEST)
    again: FactBits = pickle.loads(pickle.dumps(labels))
    for name, row in rows.items():
        assert labels.share(name) == pytest.approx(row.mean() if len(row) else 0)
        for start in range(len(row) + 1):
            for stop in range(start, len(row) + 1):
                found = labels.slice(name, start, stop)
                assert found.dtype == bool
                assert found.tolist() == row[start:stop].tolist()
        assert again.slice(name, 0, len(row)).tolist() == row.tolist()
    with pytest.raises(IndexError, match=r"outside validation\.bits of 2 tokens"):
        labels.slice("validation", 0, 3)
    with pytest.raises(ArtifactError, match="have no split 'dev'"):
        labels.slice("dev", 0, 1)


def test_labels_of_another_tokenizer_are_refused(tmp_path: Path, shards: ShardSet) -> None:
    write_bits(tmp_path / "facts", shards)
    with pytest.raises(ArtifactError, match=r"another tokenizer.*aaaaaaaaaaaa.*bbbbbbbbbbbb.*lacewing label"):
        FactBits.open(tmp_path / "facts", shards, "b" * 64)


def test_a_split_without_labels_is_refused(tmp_path: Path, shards: ShardSet) -> None:
    write_bits(tmp_path / "facts", shards, ["train", "validation"])
    with pytest.raises(ArtifactError, match="split 'test' has none, only 'train', 'validation'"):
        FactBits.open(tmp_path / "facts", write_shards(tmp_path / "more", LENGTHS | {"test": [2]}), DIGEST)


def test_labels_of_other_shards_are_refused(tmp_path: Path, shards: ShardSet) -> None:
    write_bits(tmp_path / "facts", shards)
    longer = write_shards(tmp_path / "longer", LENGTHS | {"train": [5, 0, 17, 4]})
    with pytest.raises(ArtifactError, match="split 'train' has 30 tokens and 29 bits"):
        FactBits.open(tmp_path / "facts", longer, DIGEST)
    reordered = write_shards(tmp_path / "reordered", LENGTHS | {"train": [5, 1, 16, 3]})
    with pytest.raises(ArtifactError, match="made for other shards"):
        FactBits.open(tmp_path / "facts", reordered, DIGEST)


def test_damaged_and_unfinished_bits_are_refused(tmp_path: Path, shards: ShardSet) -> None:
    folder = tmp_path / "facts"
    write_bits(folder, shards)
    with (folder / "train.bits").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"train\.bits has 5 bytes, its index says 4"):
        FactBits.open(folder, shards, DIGEST)
    (folder / "train.bits").unlink()
    with pytest.raises(ArtifactError, match=r"train\.bits is missing"):
        FactBits.open(folder, shards, DIGEST)
    (folder / "index.json").write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be read as an index of labels"):
        FactBits.open(folder, shards, DIGEST)
    (folder / "index.json").unlink()
    with pytest.raises(ArtifactError, match="no finished labels"):
        FactBits.open(folder, shards, DIGEST)


def test_the_tokenizer_is_known_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    one = tokenizer_digest(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{} ")
    assert tokenizer_digest(tmp_path) != one
    with pytest.raises(ArtifactError, match="holds no tokenizer"):
        tokenizer_digest(tmp_path / "nowhere")
