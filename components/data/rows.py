"""Rows of files that hold more than one text each: JSONL, compressed or not, and Parquet. Each has its place."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.errors import InputError
from components.data.reading import opened
from components.data.sources import SourceFile

_PARQUET_ROWS = 256

Row = bytes | Mapping[str, Any]
"""A line that is not parsed yet, so that a bad one may be left out, or the columns of a row that are not null."""


def placed_rows(file: SourceFile, what: str) -> Iterator[tuple[str, Row]]:
    """Place, for people, and content of every row; ``what`` the rows are to hold.

    Raises ``InputError`` for a file of another kind and for a damaged one.
    """
    try:
        yield from _parquet(file) if file.kind == "parquet" else _lines(file, what)
    except (OSError, EOFError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not that of a format
            raise
        raise InputError(
            f"{file.origin} cannot be read: it is truncated or damaged ({error}). Fetch or make the file again."
        ) from error


def parsed(row: Row, place: str) -> object:
    """What the row holds; raises ``InputError`` if it is a line that is not JSON."""
    if not isinstance(row, bytes):
        return row
    try:
        return json.loads(row.decode("utf-8").removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON ({error})") from error


def _lines(file: SourceFile, what: str) -> Iterator[tuple[str, Row]]:
    if file.kind != "jsonl":
        raise InputError(
            f"{file.origin} is {file.kind}: {what} are read from .jsonl, .ndjson (also .gz, .zst) and .parquet files; "
            f"another kind of file cannot hold {what}"
        )
    with closing(opened(file)) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield f"{file.origin}, line {number}", line


def _parquet(file: SourceFile) -> Iterator[tuple[str, Row]]:
    with pq.ParquetFile(file.path, memory_map=True, page_checksum_verification=True) as table:
        number = 0
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                # A column that a row does not use is null there.
                yield f"{file.origin}, row {number}", {name: value for name, value in row.items() if value is not None}
