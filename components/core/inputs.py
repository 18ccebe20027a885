"""Content digests of what delegation reads from outside the workspace: pipelines and models named by a path.

The flow puts them into the key of a stage: whoever trains a pipeline or a model again under the same name gets new
labels, a new model or new figures. Light: the flow's process computes them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from components.core.errors import InputError
from components.core.identity import digest_file
from components.labelling.config import LabelConfig


def pipeline_fingerprint(cfg: LabelConfig) -> dict[str, str]:
    """What the annotator's pipeline is: the digest of its files, or the version of its package; empty for none."""
    if not cfg.pipeline or cfg.annotator in ("world", "capitals"):
        return {}
    if Path(cfg.pipeline).is_dir():
        return {"pipeline": folder_digest(Path(cfg.pipeline))}
    try:
        return {"pipeline": version(cfg.pipeline)}
    except PackageNotFoundError:
        return {}  # the stage says what is missing, and what to do


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
