"""Who computes: Triton or PyTorch. One rule for all kernels.

An argument beats ``using(...)``, which beats the environment variable ``LACEWING_KERNELS``, which beats ``auto``.
Whoever names an implementation gets it or an error; only ``auto`` may choose, and it says once why it passed Triton by.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Literal, ParamSpec, TypeVar, get_args

import torch

Implementation = Literal["auto", "torch", "triton"]
VARIABLE = "LACEWING_KERNELS"

_P = ParamSpec("_P")
_R = TypeVar("_R")
_log = logging.getLogger(__name__)
_used: ContextVar[Implementation | None] = ContextVar("lacewing_kernels", default=None)


@contextmanager
def using(implementation: Implementation) -> Iterator[None]:
    """Within the block, calls that do not name an implementation use this one."""
    token = _used.set(_checked(implementation, "using"))
    try:
        yield
    finally:
        _used.reset(token)


def requested(implementation: Implementation | None = None) -> Implementation:
    """What the argument, ``using`` or the environment asks for, in this order; ``auto`` if none does.

    Raises ``ValueError`` for another word than auto, torch or triton.
    """
    if implementation is not None and _checked(implementation, "impl") != "auto":
        return implementation
    return _used.get() or _checked(os.environ.get(VARIABLE) or "auto", VARIABLE)


def resolved(
    implementation: Implementation | None, device: torch.device, obstacle: str | None = None
) -> Literal["torch", "triton"]:
    """The implementation to run on ``device``.

    Arguments:
        implementation: the caller's wish; see ``requested``.
        device: where the tensors are.
        obstacle: why the Triton kernel cannot take this call (no kernel for the head dimension, say), if it cannot.

    Raises ``ValueError`` if Triton is asked for by name and cannot run here.
    """
    wish = requested(implementation)
    if wish == "torch":
        return "torch"
    obstacle = obstacle or unavailable(device)
    if wish == "triton":
        if obstacle:
            raise ValueError(f"the triton implementation was asked for, but {obstacle}; use torch or auto")
        return "triton"
    if device.type != "cuda":  # the interpreter is for tests: auto never takes it
        return "torch"
    if obstacle:
        say_once(f"PyTorch instead of the Triton kernel: {obstacle}")
        return "torch"
    return "triton"


def constant_when_compiled(choice: Callable[_P, _R]) -> Callable[_P, _R]:
    """Lets torch.compile call ``choice`` once, while it traces, and take what it returns for a constant.

    ``torch.compiler.assume_constant_result`` does the same, but imports the whole compiler, and Triton with it, where
    it decorates: over a second that a process which compiles nothing would wait for.
    """
    choice._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return choice


def interpreted() -> bool:
    """Does Triton's interpreter run the kernels, on the CPU? Decided before the first kernel is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unavailable(device: torch.device) -> str | None:
    """Why no Triton kernel runs on ``device``; ``None`` if one can."""
    if device.type == "cuda":
        if interpreted():
            return "TRITON_INTERPRET=1 keeps Triton on the CPU"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
        return None
    if device.type == "cpu" and interpreted():
        return None
    return f"the tensors are on {device.type}: it needs a CUDA device (or, for tests, TRITON_INTERPRET=1 on cpu)"


def _checked(word: str, source: str) -> Implementation:
    if word not in get_args(Implementation):
        raise ValueError(f"{source} is {word!r}; allowed are {', '.join(get_args(Implementation))}")
    return word  # type: ignore[return-value]


@cache
def say_once(message: str) -> None:
    """Warn, the first time that there is this to say."""
    _log.warning(message)
