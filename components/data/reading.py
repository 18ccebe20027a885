"""Files to documents, one at a time: memory holds one document, however large the corpus.

Errors name the file and the line, row or byte. An error in one document can be skipped and counted instead
(``on_error="skip"``). A truncated or corrupt file is always an error, because it is unknown what is missing.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.errors import InputError
from components.data.config import DataConfig
from components.data.sources import SourceFile
from components.data.text_field import TextField

_BUFFER_BYTES = 1 << 20
_PARQUET_ROWS = 256

OnBytes = Callable[[int], object]
Problem = Literal["undecodable", "not_json", "no_text", "empty"]


class Document(NamedTuple):
    """A text and where it came from."""

    id: str
    text: str


@dataclass
class Reader:
    """Reads documents under the policy of ``cfg`` and counts in ``skipped`` those left out, by reason."""

    cfg: DataConfig
    skipped: Counter[str] = field(default_factory=Counter)

    def documents(self, files: Iterable[SourceFile], on_bytes: OnBytes = lambda _: None) -> Iterator[Document]:
        """All documents of ``files`` in order; documents without visible text are left out and counted.

        ``on_bytes`` is told how many bytes were read from disk, as they are read.
        """
        for file in files:
            try:
                for document in self._read(file, on_bytes):
                    if document.text.isspace() or not document.text:
                        self.skipped["empty"] += 1
                    else:
                        yield document
            except pa.ArrowInvalid as error:
                raise InputError(f"{file.origin} cannot be read as {file.kind}: {error}") from error
            except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
                if isinstance(error, OSError) and error.errno is not None:  # the system's, not that of a format
                    raise
                raise InputError(
                    f"{file.origin} is truncated or damaged ({error}). Fetch or make the file again."
                ) from error

    def _read(self, file: SourceFile, on_bytes: OnBytes) -> Iterator[Document]:
        if file.kind == "parquet":
            yield from self._parquet(file, on_bytes)
            return
        with closing(opened(file, on_bytes)) as stream:
            yield from self._jsonl(file, stream) if file.kind == "jsonl" else self._text(file, stream)

    def _text(self, file: SourceFile, stream: io.BufferedReader) -> Iterator[Document]:
        whole = self.cfg.document_separator == "file"
        parts = [(0, stream.read())] if whole else _parts(stream, self.cfg.document_separator)
        for number, (offset, part) in enumerate(parts, 1):
            text = self._decoded(part, file, offset)
            if text is not None:
                yield Document(file.origin if whole else f"{file.origin}:{number}", text.removeprefix("\ufeff"))

    def _jsonl(self, file: SourceFile, stream: io.BufferedReader) -> Iterator[Document]:
        offset = 0
        for number, line in enumerate(stream, 1):  # a binary file splits on \n only, never on U+2028
            text = self._json_text(line, file, number, offset)
            if text is not None:
                yield Document(f"{file.origin}:{number}", text)
            offset += len(line)

    def _json_text(self, line: bytes, file: SourceFile, number: int, offset: int) -> str | None:
        if not line.strip():
            return None
        decoded = self._decoded(line, file, offset)
        if decoded is None:
            return None
        try:
            row = json.loads(decoded.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            self._problem("not_json", f"{file.origin}, line {number} is not JSON ({error})")
            return None
        field = TextField.parse(file.text_field)
        for name in field.names:
            if not isinstance(row, dict) or not isinstance(row.get(name), str):
                self._problem("no_text", f"{file.origin}, line {number} has no text: {_lack(row, name)}")
                return None
        return self._encodable(field.text(row), f"{file.origin}, line {number}")

    def _parquet(self, file: SourceFile, on_bytes: OnBytes) -> Iterator[Document]:
        size = file.path.stat().st_size
        with pq.ParquetFile(file.path, memory_map=True, page_checksum_verification=True) as table:
            field = TextField.parse(file.text_field)
            _check_columns(table.schema_arrow, field.names, file.origin)
            number = 0
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=field.names):
                columns = [batch.column(name).cast(pa.large_binary()).to_pylist() for name in field.names]
                for row in zip(*columns, strict=True):
                    number += 1
                    values = self._row_text(dict(zip(field.names, row, strict=True)), file, number)
                    if values is not None:
                        yield Document(f"{file.origin}:{number}", field.text(values))
                on_bytes(size * batch.num_rows // table.metadata.num_rows)
            if number != table.metadata.num_rows:
                raise pa.ArrowException(f"it holds {number} of {table.metadata.num_rows} rows")

    def _row_text(self, row: dict[str, bytes | None], file: SourceFile, number: int) -> dict[str, str] | None:
        """The text of each field of a Parquet row; ``None`` if it is left out for one of them."""
        values = {}
        for name, value in row.items():
            if value is None:
                self._problem("no_text", f"{file.origin}, row {number} has no text: {name!r} is null")
                return None
            if (text := self._decoded(value, file, 0, f"row {number}, ")) is None:
                return None
            values[name] = text
        return values

    def _decoded(self, raw: bytes, file: SourceFile, offset: int, where: str = "") -> str | None:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            place = f"{file.origin}, {where}byte {offset + error.start}"
            self._problem(
                "undecodable", f"{place} is not UTF-8 (0x{raw[error.start]:02x}: {error.reason}). Convert the file"
            )
            return None

    def _encodable(self, text: str, place: str) -> str | None:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON may spell half a surrogate pair
            self._problem("undecodable", f"{place} holds text that is not valid Unicode ({error.reason})")
            return None
        return text

    def _problem(self, problem: Problem, message: str) -> None:
        if self.cfg.on_error == "fail":
            raise InputError(f"{message}. data.on_error=skip leaves such documents out and counts them.")
        self.skipped[problem] += 1


def _check_columns(schema: pa.Schema, names: Sequence[str], origin: str) -> None:
    """Raise ``InputError`` unless every column is there and holds text."""
    for name in names:
        if name not in schema.names:
            raise InputError(f"{origin} has no column {name!r}; it has {schema.names}. Set data.text_field")
        if not _is_text(kind := schema.field(name).type):
            raise InputError(f"column {name!r} of {origin} holds {kind}, not text. Set data.text_field")


def _is_text(kind: pa.DataType) -> bool:
    """Text, or bytes that may be text, in any of Arrow's layouts."""
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return bool(text or types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _lack(row: object, field: str) -> str:
    if not isinstance(row, dict):
        return f"it is {type(row).__name__}, not an object with a field {field!r}"
    if field in row:
        return f"its {field!r} is {type(row[field]).__name__}, not text"
    return f"no field {field!r} among {sorted(row)[:12]}. Set data.text_field"


def _parts(stream: io.BufferedReader, separator: str) -> Iterator[tuple[int, bytes]]:
    """What lies between separator lines, without the line ends around it, and its offset in bytes."""
    marker = b"" if separator == "blank-line" else separator.encode()
    start = offset = 0
    lines: list[bytes] = []
    for line in stream:
        offset += len(line)
        if line.strip() != marker:
            lines.append(line)
            continue
        if lines:
            yield start, b"".join(lines).rstrip(b"\r\n")
        lines = []
        start = offset
    if lines:
        yield start, b"".join(lines).rstrip(b"\r\n")


def opened(file: SourceFile, on_bytes: OnBytes = lambda _: None) -> io.BufferedReader:
    """The bytes of a text file, decompressed; ``on_bytes`` is told how many were read from disk."""
    stream: Any = _Counted(file.path.open("rb", buffering=0), on_bytes)
    if file.compression:
        # Arrow detects a truncated zstd file; the zstandard package treats it as the end.
        stream = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), file.compression)
    return io.BufferedReader(stream, _BUFFER_BYTES)


class _Counted(io.RawIOBase):
    """A file that says how much of it was read."""

    def __init__(self, file: io.FileIO, on_bytes: OnBytes) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._on_bytes(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
