"""Lines of JSON from an external file, plain or gzipped; errors name the file and the line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.core.errors import InputError


def json_lines(path: Path, setting: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the file with its place ("FILE, line 3"); blank lines are skipped.

    ``setting`` is the configuration key that named the file. Raises ``InputError`` if it cannot be read.
    """
    if not path.is_file():
        raise InputError(
            f"{setting} names {path}, and there is no such file: give .jsonl or .jsonl.gz files that exist"
        )
    # A binary file ends its lines at newlines only, never at U+2028.
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", _object(line, f"{path}, line {number}")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is truncated or damaged after line {number} ({error})") from error


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8").removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON in UTF-8: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{place} holds {type(row).__name__}, not a JSON object")
    return row
