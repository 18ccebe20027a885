"""Room on the disk of the workspace: asked for before a flow starts, and looked at when one fails.

The servers and databases that a flow depends on say little of a full disk, or wait in the hope that it passes.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.core.errors import DiskFullError, InputError

# In a new workspace Prefect's database and its log of writes take 6 MB, MLflow's database 1 MB, their journals as much.
NEEDED_MB = 16
# Less than this, and a database that has to grow fails.
FULL_MB = 0.5
# SQLite's words; it says the second where a limit on the size of files is met.
_WORDS = ("database or disk is full", "disk I/O error", "No space left on device")


def require_room(folder: Path) -> None:
    """Raise ``DiskFullError`` if the databases of a flow have no room in ``folder``."""
    if (free := free_mb(folder)) < NEEDED_MB:
        raise DiskFullError(
            f"only {free:.1f} MB are free on the disk of {folder}, and the databases of Prefect and MLflow need "
            f"{NEEDED_MB} MB to run a flow. Free some space, or set LACEWING_WORKSPACE to a folder on another disk. "
            "Nothing that is there is lost: the same command continues."
        )


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn whatever fails in the block into a ``DiskFullError`` if the disk of ``folder`` is full."""
    try:
        yield
    except (DiskFullError, InputError):
        raise
    except Exception as error:
        words = words_for_full_disk(error) or ("nothing is free any more" if free_mb(folder) < FULL_MB else "")
        if not words:
            raise
        raise DiskFullError(
            f"no space left on the disk of {folder} ({words}; {free_mb(folder):.1f} MB are free there, and a flow "
            f"needs {NEEDED_MB} MB besides its results). Nothing written before is lost: free some space and run the "
            "same command again to continue."
        ) from error


def words_for_full_disk(error: BaseException | None) -> str:
    """What the error, or one that led to it, says of a full disk; empty if none says anything of the kind."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return str(error)
        if found := next((words for words in _WORDS if words in str(error)), ""):
            return found
        error = error.__cause__ or error.__context__
    return ""


def free_mb(path: Path) -> float:
    """Free space on the disk of ``path``, which need not exist yet."""
    place = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(place).free / 1e6
