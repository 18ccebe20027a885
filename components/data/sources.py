"""The kinds of sources, and the fingerprint that detects a change of a source.

This module runs in the flow's process before the stage is started, so it imports nothing heavy and fails fast: a
missing or empty source is reported before any work is done.
"""

import errno
import glob
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from components.core.errors import InputError
from components.core.identity import digest_file, digest_json
from components.data.config import DataConfig
from components.data.download import fingerprint_of_url
from components.data.hub import HUB_PREFIX, fingerprint_of_dataset

WORLD = "world"
PYDOC = "pydoc"

Kind = Literal["text", "jsonl", "parquet"]
Compression = Literal["", "gzip", "zstd"]

_KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class SourceFile:
    """A file of documents on this machine.

    ``origin`` is what the user called it, for messages; ``text_field`` the JSON field or column that holds the text, or
    a template of several.
    """

    path: Path
    origin: str
    kind: Kind
    compression: Compression
    text_field: str


def fingerprint(cfg: DataConfig) -> dict[str, str]:
    """Content of every source as a short text, by source.

    Files by SHA-256, addresses by ETag or modification date, hub data sets by revision. Raises ``InputError`` if a
    source is missing, empty or of a kind that cannot be read, and ``ServiceError`` if its server does not answer.
    """
    return {source: _fingerprint(source, cfg) for source in cfg.sources}


def _fingerprint(source: str, cfg: DataConfig) -> str:
    if source == WORLD:
        return "world:" + digest_json(cfg.world.model_dump(mode="json"))[:16]
    if source == PYDOC:
        return "sha256:" + digest_json(pydoc_topics())
    if is_url(source):
        kind_of(url_name(source), source)
        return fingerprint_of_url(source)
    if source.startswith(HUB_PREFIX):
        return fingerprint_of_dataset(source)
    files = {path.as_posix(): digest_file(path) for path in local_files(source)}
    return "sha256:" + (next(iter(files.values())) if len(files) == 1 else digest_json(files))


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def url_name(url: str) -> str:
    """File name at the end of an address, without its query."""
    return PurePosixPath(urlsplit(url).path).name


def kind_of(name: str, origin: str) -> tuple[Kind, Compression]:
    """Format and compression of a file by its name; raises ``InputError`` if it is not one that can be read."""
    path = PurePosixPath(name.lower())
    compression = _COMPRESSIONS.get(path.suffix, "")
    kind = _KINDS.get(PurePosixPath(path.stem).suffix if compression else path.suffix)
    if kind == "parquet" and compression:
        raise InputError(f"{origin} cannot be read: Parquet compresses inside the file; unpack it to .parquet first")
    if kind is None:
        raise InputError(
            f"{origin} cannot be read: the name must end in one of {', '.join(_KINDS)} "
            f"(all but .parquet optionally followed by {' or '.join(_COMPRESSIONS)})"
        )
    return kind, compression


def local_files(source: str) -> list[Path]:
    """Files that a path or glob names, sorted, each readable and not empty; raises ``InputError`` otherwise."""
    files = sorted(_matches(source))
    for path in files:
        kind_of(path.name, str(path))
        if path.stat().st_size == 0:
            raise InputError(f"source {path} is empty (0 bytes)")
    return files


def _matches(source: str) -> Iterator[Path]:
    path = Path(source).expanduser()
    if path.is_file():  # also a file whose name holds a bracket
        yield path
        return
    if path.is_dir():
        raise InputError(f"source {source} is a folder; name its files with a glob, for example {source}/**/*.jsonl")
    if os.path.lexists(path):
        raise InputError(_no_file(path))
    if not glob.has_magic(source):
        raise InputError(
            f"source {source} does not exist (looked in {Path.cwd()}). "
            f"Sources are {WORLD}, {PYDOC}, files, globs, http(s) addresses and {HUB_PREFIX}dataset[:config][:split]"
        )
    found = False
    for match in map(Path, glob.iglob(str(path), recursive=True)):  # noqa: PTH207  Path.glob refuses absolute patterns
        if match.is_dir():
            continue
        if not match.is_file():
            raise InputError(_no_file(match))
        _check_for_a_circle(match, source)
        found = True
        yield match
    if not found:
        raise InputError(f"no file matches {source} (looked in {Path.cwd()})")


def _no_file(path: Path) -> str:
    """Why the path, which exists, cannot be read as a file."""
    try:
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(path.stat().st_mode), "a device")
        return f"source {path} is {kind}, not a file: write what it delivers to a file, and name that"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"source {path} is a symbolic link that leads back to itself: remove it, or let it lead to a file"
        if error.errno == errno.ENOENT:
            return f"source {path} is a symbolic link to {path.readlink()}, which does not exist"
        return f"source {path} cannot be read: {error.strerror}"


def _check_for_a_circle(match: Path, source: str) -> None:
    """A link to a folder above itself would bring every file many times (and may keep the search busy for ever)."""
    for folder in match.parents if "**" in source else ():
        if folder.is_symlink() and folder.resolve() in (folder.parent / "_").resolve().parents:
            raise InputError(
                f"source {source} leads in a circle: {folder} is a symbolic link to {folder.resolve()}, a folder above "
                "it. Remove the link, or name the folders without **"
            )


def pydoc_topics() -> dict[str, str]:
    """The language manual that comes with Python, by topic."""
    from pydoc_data.topics import topics  # 700 kB of text that only this source needs

    return dict(topics)
