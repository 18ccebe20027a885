"""Files to conversations, one at a time; JSONL (compressed or not) and Parquet."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.errors import InputError
from components.data.chats.config import Layout
from components.data.chats.conversation import Conversation
from components.data.chats.layouts import read_row
from components.data.reading import opened
from components.data.sources import SourceFile

_PARQUET_ROWS = 256
_Placed = tuple[str, object]


@dataclass
class ConversationReader:
    """Reads conversations, and counts in ``skipped`` the lines that hold none, where these may be left out."""

    layout: Layout
    may_skip: bool
    skipped: Counter[str] = field(default_factory=Counter)

    def conversations(self, files: Iterable[SourceFile]) -> Iterator[Conversation]:
        """All conversations of ``files`` in order.

        Raises ``InputError`` naming file and line, for a line without a conversation and for files that are damaged or
        of another kind.
        """
        for file in files:
            try:
                for place, row in self._rows(file):
                    if (found := self._read(place, row)) is not None:
                        yield found
            except (OSError, EOFError, pa.ArrowException) as error:
                if isinstance(error, OSError) and error.errno is not None:  # the system's, not that of a format
                    raise
                raise InputError(
                    f"{file.origin} cannot be read as {file.kind}: {error}. Make the file again."
                ) from error

    def _read(self, place: str, row: object) -> Conversation | None:
        try:
            return read_row(_parsed(row, place) if isinstance(row, bytes) else row, self.layout, place)
        except InputError as error:
            if not self.may_skip:
                raise InputError(f"{error}. finetune.chat.data.on_error=skip leaves such lines out.") from error
            self.skipped["no_conversation"] += 1
            return None

    def _rows(self, file: SourceFile) -> Iterator[_Placed]:
        if file.kind == "parquet":
            return _parquet(file)
        if file.kind == "jsonl":
            return _lines(file)
        raise InputError(
            f"{file.origin} is {file.kind}: conversations are read from .jsonl, .ndjson and .parquet files"
        )


def _lines(file: SourceFile) -> Iterator[_Placed]:
    with closing(opened(file, lambda _: None)) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield f"{file.origin}, line {number}", line


def _parquet(file: SourceFile) -> Iterator[_Placed]:
    with pq.ParquetFile(file.path, memory_map=True, page_checksum_verification=True) as table:
        number = 0
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                # A column that a row does not use is null there.
                yield f"{file.origin}, row {number}", {name: value for name, value in row.items() if value is not None}


def _parsed(line: bytes, place: str) -> object:
    try:
        return json.loads(line.decode("utf-8").removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON ({error})") from error
