"""Memory that a closed version no longer needs goes back to the operating system.

glibc keeps what was freed for the next allocation: after each swap, a server would look as if it held two versions.
"""

import ctypes
import time
from collections.abc import Callable

# Who used the version last may be about to return from the function that did.
_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.01


def release(gone: Callable[[], object]) -> None:
    """Wait until nobody holds what ``gone``, a weak reference, refers to, and return its memory.

    Elsewhere than on glibc: only wait.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while gone() is not None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of this process
    if trim is not None:
        trim(0)
