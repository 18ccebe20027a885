"""A process that ends when the one that started it does, even if that was killed.

The parent starts it with ``stdin=subprocess.PIPE`` and never writes. The kernel closes the pipe when the parent ends,
however it ends. (On Linux, PR_SET_PDEATHSIG would send a signal, but already at the end of the *thread* that started
the child, and not through a second process in between.)

``python -m components.core.parent MODULE ARGUMENTS`` does this for a module that knows nothing of it: as
``python -m MODULE ARGUMENTS``, but with its parent's end as its Ctrl-C.
"""

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable

FOLLOW_PARENT = "--follow-parent"
# A worker of flows passes a stop on to a training run, which saves a checkpoint.
STOP_TIMEOUT_SECONDS = 120


def terminate() -> None:
    """End this process as SIGTERM does."""
    os.kill(os.getpid(), signal.SIGTERM)


def follow_parent(end: Callable[[], None] = terminate) -> None:
    """Call ``end``, in a thread of its own, when standard input ends."""
    threading.Thread(target=_wait_for_end_of_input, args=(end,), name="parent-watch", daemon=True).start()


def _wait_for_end_of_input(end: Callable[[], None]) -> None:
    while os.read(0, 1):  # not sys.stdin: its buffer's lock would be held when the interpreter ends
        pass
    end()


def _interrupt_group() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(STOP_TIMEOUT_SECONDS)
    os.killpg(os.getpid(), signal.SIGKILL)


def _run(module: str, arguments: list[str]) -> None:
    assert os.getpgrp() == os.getpid(), "start it with start_new_session=True, or its parent would be killed with it"
    follow_parent(_interrupt_group)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2:])
