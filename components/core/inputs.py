"""Content digests of what stages read from outside the workspace: models and files named by a path.

The flow puts them into the key of a stage, so that a model that was trained again under the same name gives a new
result. Light:
the flow's process computes them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from components.core.errors import InputError
from components.core.identity import digest_file


def models_fingerprint(models: Mapping[str, str]) -> dict[str, str]:
    """Digests of model folders by setting; settings that are empty are left out.

    Raises ``InputError`` for a path that is no folder, before anything has run.
    """
    found = {}
    for setting, folder in models.items():
        if not folder:
            continue
        if not Path(folder).is_dir():
            raise InputError(f"{setting} is {folder!r}, which is no folder: give the folder of a model")
        found[setting] = folder_digest(Path(folder))
    return found


def files_fingerprint(files: Iterable[str]) -> dict[str, str]:
    """Digests of files (or folders) that are read by name; empty names are left out, missing ones left to the stage."""
    paths = [Path(name) for name in files if name]
    return {str(path): digest_file(path) if path.is_file() else folder_digest(path) for path in paths if path.exists()}


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below ``folder``; Python's own caches do not count."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(folder).as_posix()} {digest_file(path)}\n".encode())
    return digest.hexdigest()
