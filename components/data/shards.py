"""Token shards: the corpus as flat integers on disk, read through memory maps.

Each split is one long row of tokens in which every document is followed by a boundary token. The row is cut into files
of exactly ``shard_tokens`` tokens (the last one shorter), so position ``p`` lies in file ``p // shard_tokens``. A table
beside it keeps where each document starts. ``index.json`` is written last: shards without it are leftovers of an
interrupted run and are removed by the next writer.

    index.json                what follows, in numbers
    train-00000.bin ...       tokens, uint16 or uint32, little endian
    train-documents.bin       int64 [documents, 3]: start, tokens without boundary, bytes of text
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from jaxtyping import Int, Integer
from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.atomic import full_disk_explained, write_text
from components.core.errors import ArtifactError

INDEX = "index.json"
DEFAULT_SHARD_TOKENS = 64 * 1024 * 1024
_DIGEST_BLOCK_ROWS = 1 << 16
_DOCUMENT_COLUMNS = 3

Tokens = Integer[np.ndarray, " tokens"]


class SplitRecord(BaseModel):
    """Size of one split in ``index.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int
    documents: int
    bytes: int


class ShardIndex(BaseModel):
    """Contents of ``index.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int
    boundary_id: int
    shard_tokens: int
    splits: dict[str, SplitRecord]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Smallest unsigned little-endian integer type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class ShardWriter:
    """Appends documents to splits; memory stays at one write buffer per split.

    Use as a context manager: leaving normally closes, leaving with an error closes the files without an index.
    """

    def __init__(
        self, folder: Path, vocab_size: int, boundary_id: int, shard_tokens: int = DEFAULT_SHARD_TOKENS
    ) -> None:
        assert shard_tokens > 0, shard_tokens
        self._folder = folder
        self._vocab_size = vocab_size
        self._boundary_id = boundary_id
        self._shard_tokens = shard_tokens
        self._splits: dict[str, _SplitWriter] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in [folder / INDEX, *folder.glob("*.bin")]:
            leftover.unlink(missing_ok=True)

    def add(self, split: str, ids: Sequence[int] | Tokens, n_bytes: int) -> None:
        """Append one document of ``n_bytes`` bytes of text; raises ``DiskFullError`` if it cannot be written."""
        tokens = np.empty(len(ids) + 1, dtype=token_dtype(self._vocab_size))
        tokens[:-1] = ids
        tokens[-1] = self._boundary_id
        if tokens.max() >= self._vocab_size:
            raise ValueError(f"token {tokens.max()} is outside the vocabulary of {self._vocab_size}")
        if split not in self._splits:
            self._splits[split] = _SplitWriter(self._folder, split, self._shard_tokens)
        self._splits[split].append(tokens, n_bytes)

    def close(self) -> None:
        """Flush every file and write the index."""
        for split in self._splits.values():
            split.close()
        index = ShardIndex(
            vocab_size=self._vocab_size,
            boundary_id=self._boundary_id,
            shard_tokens=self._shard_tokens,
            splits={
                name: SplitRecord(tokens=split.tokens, documents=split.documents, bytes=split.bytes)
                for name, split in self._splits.items()
            },
        )
        write_text(self._folder / INDEX, index.model_dump_json(indent=2) + "\n")

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        for split in self._splits.values():
            split.abandon()


class _SplitWriter:
    def __init__(self, folder: Path, name: str, shard_tokens: int) -> None:
        self.tokens = self.documents = self.bytes = 0
        self._folder = folder
        self._name = name
        self._shard_tokens = shard_tokens
        self._table_path = _table_path(folder, name)
        self._table = self._table_path.open("wb")
        self._path = _shard_path(folder, name, 0)
        self._file: IO[bytes] = self._path.open("wb")

    def append(self, tokens: Tokens, n_bytes: int) -> None:
        row = np.array([self.tokens, len(tokens) - 1, n_bytes], dtype="<i8")
        with full_disk_explained(self._path):
            while len(tokens):
                room = self._shard_tokens - self.tokens % self._shard_tokens
                if room == self._shard_tokens and self.tokens:
                    self._next_file()
                self._file.write(tokens[:room].tobytes())
                self.tokens += len(tokens[:room])
                tokens = tokens[room:]
        with full_disk_explained(self._table_path):
            self._table.write(row.tobytes())
        self.documents += 1
        self.bytes += n_bytes

    def _next_file(self) -> None:
        self._file.close()
        self._path = _shard_path(self._folder, self._name, self.tokens // self._shard_tokens)
        self._file = self._path.open("wb")

    def close(self) -> None:
        with full_disk_explained(self._path):
            self._file.close()
        with full_disk_explained(self._table_path):
            self._table.close()

    def abandon(self) -> None:
        for file in (self._file, self._table):
            with suppress(OSError):  # the first error is the one to report
                file.close()


@dataclass(frozen=True)
class Split:
    """One split, read lazily. ``n_tokens`` counts boundaries, ``n_bytes`` the UTF-8 text."""

    folder: Path
    name: str
    n_tokens: int
    n_documents: int
    n_bytes: int
    shard_tokens: int
    dtype: np.dtype[Any]

    def slice(self, start: int, stop: int) -> Tokens:
        """Tokens ``[start, stop)`` of the whole row, across file borders; read-only, in the stored dtype."""
        if not 0 <= start <= stop <= self.n_tokens:
            raise IndexError(f"tokens [{start}, {stop}) are outside split {self.name!r} of {self.n_tokens} tokens")
        first, last = start // self.shard_tokens, max(start, stop - 1) // self.shard_tokens
        pieces = [
            self._files[i][max(0, start - i * self.shard_tokens) : stop - i * self.shard_tokens]
            for i in range(first, min(last + 1, len(self._files)))
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=self.dtype)

    def document(self, i: int) -> Tokens:
        """Ids of document ``i`` without its boundary."""
        start, tokens, _ = (int(number) for number in self.documents[i])
        return self.slice(start, start + tokens)

    @cached_property
    def documents(self) -> Int[np.ndarray, "documents 3"]:
        """Per document: its first token, its tokens without the boundary, the bytes of its text."""
        if self.n_documents == 0:  # an empty file cannot be mapped
            return np.empty((0, _DOCUMENT_COLUMNS), dtype="<i8")
        path = _table_path(self.folder, self.name)
        return np.memmap(path, dtype="<i8", mode="r", shape=(self.n_documents, _DOCUMENT_COLUMNS))

    @cached_property
    def _files(self) -> list[Tokens]:
        count = -(-self.n_tokens // self.shard_tokens)
        return [np.memmap(_shard_path(self.folder, self.name, i), dtype=self.dtype, mode="r") for i in range(count)]

    def __getstate__(self) -> dict[str, Any]:
        # A memory map pickles as a copy of the file: loader processes map it again instead.
        return {name: value for name, value in self.__dict__.items() if name not in ("documents", "_files")}

    def fault(self) -> str | None:
        """First file whose size differs from the index, in words; ``None`` if all are as written."""
        for start in range(0, max(self.n_tokens, 1), self.shard_tokens):
            path = _shard_path(self.folder, self.name, start // self.shard_tokens)
            tokens = min(self.shard_tokens, self.n_tokens - start)
            if fault := _size_fault(path, tokens * self.dtype.itemsize):
                return fault
        return _size_fault(_table_path(self.folder, self.name), self.n_documents * _DOCUMENT_COLUMNS * 8)


@dataclass(frozen=True)
class ShardSet:
    """The shards of one corpus: ``splits`` by name (``train``, ``validation``, ``test``)."""

    vocab_size: int
    boundary_id: int
    splits: dict[str, Split]

    @classmethod
    def open(cls, folder: Path) -> "ShardSet":
        """Read the index and check every file's size; raises ``ArtifactError`` if anything is missing or cut."""
        path = folder / INDEX
        if not path.is_file():
            raise ArtifactError(f"{folder} holds no finished shards: it has no {INDEX}. Run `lacewing prepare`.")
        try:
            index = ShardIndex.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactError(f"{path} cannot be read as an index of shards: {error}") from error
        splits = {
            name: Split(
                folder=folder,
                name=name,
                n_tokens=record.tokens,
                n_documents=record.documents,
                n_bytes=record.bytes,
                shard_tokens=index.shard_tokens,
                dtype=token_dtype(index.vocab_size),
            )
            for name, record in index.splits.items()
        }
        for split in splits.values():
            if fault := split.fault():
                raise ArtifactError(f"the shards in {folder} are damaged: {fault}. Run `lacewing prepare` again.")
        return cls(index.vocab_size, index.boundary_id, splits)


def _shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:05d}.bin"


def _table_path(folder: Path, split: str) -> Path:
    return folder / f"{split}-documents.bin"


def _size_fault(path: Path, expected_bytes: int) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    if (size := path.stat().st_size) != expected_bytes:
        return f"{path.name} has {size} bytes, its index says {expected_bytes}"
    return None


def shards_digest(shards: ShardSet) -> str:
    """Identity of the shards: vocabulary, boundary, and where each document of each split lies.

    Reads the tables of documents, not the tokens: opening labels must stay quick at any size of the corpus.
    """
    digest = hashlib.sha256(f"{shards.vocab_size} {shards.boundary_id}".encode())
    for name, split in sorted(shards.splits.items()):
        digest.update(f"\n{name} {split.n_tokens} {split.n_documents}\n".encode())
        for first in range(0, split.n_documents, _DIGEST_BLOCK_ROWS):
            digest.update(split.documents[first : first + _DIGEST_BLOCK_ROWS].tobytes())
    return digest.hexdigest()
