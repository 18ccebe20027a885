"""Columns beside the shards: what is known about every token, besides which token it is.

A column has a value for each token of each split: a bit (it states a fact; the assistant wrote it), a number (its
weight, the class of the document that ends here) or a row of numbers (a teacher's likeliest tokens). It is as flat and
as long as the split, and read through a memory map by the loader of training batches.

    index.json              what follows, and which shards it belongs to
    NAME-train.bits ...     bit i belongs to token i of the split (least significant bit first)
    NAME-train.bin ...      numbers, little endian, [tokens] or [tokens, width]

``index.json`` is written last: columns without it are leftovers of an interrupted run.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
from jaxtyping import Bool, Shaped
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from components.core.atomic import full_disk_explained, write_text
from components.core.errors import ArtifactError
from components.data.shards import ShardSet, shards_digest

INDEX = "index.json"

Values = Shaped[np.ndarray, "tokens *width"]


class ColumnType(BaseModel):
    """What a column holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dtype: Literal["bit", "uint8", "int16", "int32", "int64", "float16", "float32"]
    width: NonNegativeInt = 0
    """Numbers per token in a row; 0: one number, without a row around it."""
    fill: float = 0.0
    """The value where there is no token, as behind the end of a split."""

    @property
    def numpy(self) -> np.dtype[Any]:
        """The type in memory; on disk it is the same, but for bits."""
        return np.dtype(bool) if self.dtype == "bit" else np.dtype(self.dtype).newbyteorder("<")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value of one token."""
        return (self.width,) if self.width else ()

    def bytes_for(self, tokens: int) -> int:
        """Size of the file of so many tokens."""
        return -(-tokens // 8) if self.dtype == "bit" else tokens * self.numpy.itemsize * max(1, self.width)


BIT = ColumnType(dtype="bit")


class ColumnFileWriter:
    """Appends the values of one column and split to a file; memory stays at what is given."""

    def __init__(self, path: Path, type: ColumnType) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.tokens = 0
        self.type = type
        self._path = path
        self._file: IO[bytes] = path.open("wb")
        self._rest: Bool[np.ndarray, " bits"] = np.empty(0, dtype=bool)  # up to seven that do not fill a byte yet

    def append(self, values: Values) -> None:
        """Add the values of the next tokens; raises ``DiskFullError`` if they cannot be written."""
        if values.shape[1:] != self.type.shape:
            raise ValueError(f"{self._path.name} takes values of shape {self.type.shape}, given {values.shape[1:]}")
        self.tokens += len(values)
        with full_disk_explained(self._path):
            self._file.write(self._packed(values) if self.type.dtype == "bit" else self._numbers(values))

    def _packed(self, bits: Values) -> bytes:
        bits = np.concatenate([self._rest, bits.astype(bool, copy=False)])
        whole = len(bits) - len(bits) % 8
        self._rest = bits[whole:]
        return np.packbits(bits[:whole], bitorder="little").tobytes()

    def _numbers(self, values: Values) -> bytes:
        return np.ascontiguousarray(values, dtype=self.type.numpy).tobytes()

    def __enter__(self) -> "ColumnFileWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with full_disk_explained(self._path):
            if kind is None:
                self._file.write(np.packbits(self._rest, bitorder="little").tobytes())
            self._file.close()


@dataclass(frozen=True)
class ColumnFile:
    """The values of one column and split on disk."""

    path: Path
    type: ColumnType
    tokens: int

    def slice(self, start: int, stop: int) -> Values:
        """The values of tokens ``[start, stop)``; read-only unless they are bits."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens [{start}, {stop}) are outside {self.path.name} of {self.tokens} tokens")
        if self.type.dtype != "bit":
            return self._stored[start:stop]
        first = start // 8
        packed = self._stored[first : -(-stop // 8)]
        bits = np.unpackbits(packed, count=stop - 8 * first if stop > start else 0, bitorder="little")
        return bits[start - 8 * first :].view(bool)

    def fault(self) -> str | None:
        """Why the file is not whole, in words; ``None`` if it has the size that it should have."""
        if not self.path.is_file():
            return f"{self.path.name} is missing"
        if (size := self.path.stat().st_size) != (expected := self.type.bytes_for(self.tokens)):
            return f"{self.path.name} has {size} bytes, its index says {expected}"
        return None

    @cached_property
    def _stored(self) -> Shaped[np.ndarray, "stored *width"]:
        bits = self.type.dtype == "bit"
        dtype = np.dtype(np.uint8) if bits else self.type.numpy
        shape = (self.type.bytes_for(self.tokens),) if bits else (self.tokens, *self.type.shape)
        # An empty file cannot be mapped.
        return np.memmap(self.path, dtype=dtype, mode="r", shape=shape) if self.tokens else np.empty(shape, dtype)

    def __getstate__(self) -> dict[str, Any]:
        # A memory map pickles as a copy of the file: loader processes map it again instead.
        return {name: value for name, value in self.__dict__.items() if name != "_stored"}


class ColumnsIndex(BaseModel):
    """Contents of ``index.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: str
    """Digest of the sizes of all documents of the shards."""
    columns: dict[str, ColumnType]
    splits: dict[str, int]
    """Tokens of each split, boundaries included."""


class ColumnsWriter:
    """Appends values to the columns of a corpus, split by split.

    Use as a context manager and call ``finish`` at the end of the block; left with an error, there is no index.
    """

    def __init__(self, folder: Path, types: Mapping[str, ColumnType]) -> None:
        self.folder = folder
        self.types = dict(types)
        self._files: dict[tuple[str, str], ColumnFileWriter] = {}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)

    def append(self, split: str, values: Mapping[str, Values]) -> None:
        """Add the values of the next tokens of ``split``, for every column, equally many."""
        if values.keys() != self.types.keys() or len({len(column) for column in values.values()}) != 1:
            given = {name: len(column) for name, column in values.items()}
            raise ValueError(f"the columns are {', '.join(self.types)}, of equal length; given {given}")
        for name, column in values.items():
            if (split, name) not in self._files:
                path = _path(self.folder, name, split, self.types[name])
                self._files[split, name] = ColumnFileWriter(path, self.types[name])
            self._files[split, name].append(column)

    def finish(self, shards: ShardSet) -> None:
        """Close the files and write the index; raises ``ValueError`` if the columns are not as long as ``shards``."""
        for (split, name), file in self._files.items():
            file.__exit__(None, None, None)
            if file.tokens != shards.splits[split].n_tokens:
                raise ValueError(f"{name} has {file.tokens} values for {shards.splits[split].n_tokens} of {split}")
        splits = {name: split.n_tokens for name, split in shards.splits.items()}
        if missing := sorted(set(splits) - {split for split, _ in self._files}):
            raise ValueError(f"no values for {', '.join(missing)}")
        index = ColumnsIndex(shards=shards_digest(shards), columns=self.types, splits=splits)
        write_text(self.folder / INDEX, index.model_dump_json(indent=2) + "\n")

    def __enter__(self) -> "ColumnsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            with suppress(OSError, ValueError):  # closed by ``finish``, or the first error is the one to report
                file.__exit__(kind or Exception, error, trace)


@dataclass(frozen=True)
class Column:
    """A column over all splits, as the loader takes it."""

    type: ColumnType
    files: Mapping[str, ColumnFile]

    @property
    def fill(self) -> float:
        """The value where there is no token."""
        return self.type.fill

    def slice(self, split: str, start: int, stop: int) -> Values:
        """The values of tokens ``[start, stop)`` of the split's row."""
        return self.files[split].slice(start, stop)


class Columns(Mapping[str, Column]):
    """The columns of one corpus by name, aligned with its shards."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = dict(columns)

    @classmethod
    def open(cls, folder: Path, shards: ShardSet) -> "Columns":
        """Read the index; check that the columns are whole and belong to ``shards``.

        Raises ``ArtifactError`` that names what is missing, damaged or of other tokens.
        """
        path = folder / INDEX
        if not path.is_file():
            raise ArtifactError(f"{folder} holds no finished columns: it has no {INDEX}. Make them again.")
        try:
            index = ColumnsIndex.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactError(f"{path} cannot be read as an index of columns: {error}") from error
        if index.shards != (found := shards_digest(shards)):
            raise ArtifactError(
                f"the columns in {folder} were made for other shards ({index.shards[:12]}, these are {found[:12]}): "
                "their documents have other sizes. Make the columns again."
            )
        columns = {
            name: Column(
                type,
                {
                    split: ColumnFile(_path(folder, name, split, type), type, tokens)
                    for split, tokens in index.splits.items()
                },
            )
            for name, type in index.columns.items()
        }
        for column in columns.values():
            for file in column.files.values():
                if fault := file.fault():
                    raise ArtifactError(f"the columns in {folder} are damaged: {fault}. Make them again.")
        return cls(columns)

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _path(folder: Path, name: str, split: str, type: ColumnType) -> Path:
    return folder / f"{name}-{split}.{'bits' if type.dtype == 'bit' else 'bin'}"
