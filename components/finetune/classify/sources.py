"""Where labelled texts come from. Light: the flow's process asks for the fingerprint before anything runs."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

from components.core.errors import InputError
from components.core.inputs import files_fingerprint

WORLD = "world"
_FORMATS = (".jsonl", ".ndjson", ".csv", ".parquet")


def fingerprint(sources: Sequence[str]) -> dict[str, str]:
    """Digest of every file; raises ``InputError`` for what does not exist or cannot be read."""
    return files_fingerprint(str(path) for source in sources if source != WORLD for path in matches(source))


def matches(source: str) -> list[Path]:
    """The files that a path or glob names; raises ``InputError`` if there is none, or none of a known format."""
    found = sorted(glob(source))  # noqa: PTH207  Path.glob refuses absolute patterns
    paths = [Path(source)] if Path(source).is_file() else [Path(match) for match in found]
    if not paths:
        raise InputError(f"no file matches {source} (looked in {Path.cwd()}): name files of labelled texts")
    for path in paths:
        if file_format(path) not in _FORMATS or path.name.endswith(".parquet.gz"):
            raise InputError(
                f"{path} cannot be read: its name must end in {', '.join(_FORMATS)} (all but .parquet also with .gz)"
            )
    return paths


def file_format(path: Path) -> str:
    """Suffix of the name without the compression."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
