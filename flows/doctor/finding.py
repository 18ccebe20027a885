"""What a check found."""

from typing import Literal, NamedTuple

State = Literal["ok", "warning", "fault"]
"""fault: something that was asked for will fail. warning: it works, but worse, slower or not for long."""


class Finding(NamedTuple):
    """The answer of one check."""

    state: State
    found: str
    """What there is, in one sentence or two."""
    remedy: str = ""
    """A command or a setting that a person can type, with a word of explanation where it needs one."""


def ok(found: str, remedy: str = "") -> Finding:
    return Finding("ok", found, remedy)


def warning(found: str, remedy: str) -> Finding:
    return Finding("warning", found, remedy)


def fault(found: str, remedy: str) -> Finding:
    return Finding("fault", found, remedy)


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    message = str(error).strip()
    return f"{type(error).__name__}: {message.splitlines()[0][:300]}" if message else type(error).__name__


def counted(number: int, word: str) -> str:
    """``1 core``, ``2 cores``."""
    return f"{number} {word}{'' if number == 1 else 's'}"
