"""Files that appear complete or not at all, even after SIGKILL or on a full disk."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from components.core.errors import DiskFullError

PARTIAL = ".part"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turn "no space left" into an error that names the place, the room left and the way out."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        free_mb = shutil.disk_usage(path.parent if path.parent.exists() else Path.cwd()).free / 1e6
        raise DiskFullError(
            f"no space left while writing {path} ({os.strerror(error.errno)}; {free_mb:.0f} MB free on that disk). "
            "Nothing written before is lost: free some space and run the same command again to continue."
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path``; on success flush it to disk and rename it over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_explained(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


def is_partial(path: Path) -> bool:
    """Whether ``path`` is a file that ``replacing`` is still writing, or was when it was killed."""
    return path.name.startswith(".") and path.name.endswith(PARTIAL)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically, as indented JSON that a person can read and diff."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
