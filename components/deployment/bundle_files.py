"""Which files a bundle may hold. What comes from a registry is data: weights, text and tables, and never a program.

A pickle runs code when it is read. Nothing here reads one; but whoever put it there expects somebody to.
"""

from pathlib import Path

from components.core.artifact import RECORD, UNSEALED
from components.core.errors import ArtifactError
from components.core.identity import digest_file
from components.model.bundle import Bundle

# By the end of their names.
DATA = (".json", ".jsonl", ".safetensors", ".jinja", ".md", ".html", ".txt", ".npy", "passages.bin")
# Protocols 2 to 5 begin with one byte and their number, torch's own files with that of a zip archive.
_PICKLE = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_ARCHIVE = b"PK\x03\x04"


def check_files(folder: Path, digest: str) -> None:
    """Raise ``ArtifactError`` if the bundle in ``folder`` is not the registered one, or holds what is no data.

    The digests of the single files are checked when they are loaded.

    Arguments:
        folder: a sealed bundle.
        digest: SHA-256 of its record, from the registry.
    """
    if not (folder / RECORD).is_file():
        raise ArtifactError(f"{folder} is no sealed bundle: it has no {RECORD}")
    if (found := digest_file(folder / RECORD)) != digest:
        raise ArtifactError(
            f"{folder} is not the registered bundle: its record has the digest {found[:16]}, not {digest[:16]}"
        )
    recorded = Bundle.open(folder).record.files
    for path in sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink()):
        name = path.relative_to(folder).as_posix()
        if name == RECORD or name.partition("/")[0] in UNSEALED:
            continue
        if name not in recorded:
            raise ArtifactError(f"{folder} holds {name}, which its record does not name: nobody vouches for it")
        if fault := _no_data(path):
            raise ArtifactError(f"{folder} holds {name}, {fault}: a bundle holds {', '.join(DATA)} only")


def _no_data(path: Path) -> str:
    if not path.name.endswith(DATA):
        return "which is not data by its name"
    with path.open("rb") as file:
        begin = file.read(4)
    if begin[:2] in _PICKLE or begin == _ARCHIVE:
        return "which is a pickle or an archive, whatever its name says"
    return ""
