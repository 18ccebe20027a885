"""Memory that a closed version no longer needs goes back to the operating system.

glibc keeps what was freed for the next allocation: after each swap, a server would look as if it held two versions. And
a request that was broken off leaves circles of frames and errors, in libraries too, which hold the version that it had.
"""

import ctypes
import gc
import time
from collections.abc import Callable

# Who used the version last may be about to return from the function that did.
_PATIENCE_SECONDS = 1.0
_POLL_SECONDS = 0.01


def release(gone: Callable[[], object]) -> None:
    """Wait until nobody holds what the weak reference ``gone`` refers to; return its memory to the system (glibc)."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while gone() is not None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if gone() is not None:
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of this process
    if trim is not None:
        trim(0)


def spare_modules() -> None:
    """Let the collector of circles pass over what is there now, which stays: some hundred thousand objects of modules.

    Otherwise it would hold all threads for a tenth of a second, in the middle of answers.
    """
    gc.collect()
    gc.freeze()
