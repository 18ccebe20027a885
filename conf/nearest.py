"""The nearest known name to a mistyped one. Imports nothing heavy: the command line uses it before anything else."""

import difflib
from collections.abc import Collection

_CUTOFF = 0.6
_SHOWN = 3


def nearest(name: str, known: Collection[str]) -> list[str]:
    """The names in ``known`` that ``name`` was probably meant to be, best first; none if none is near.

    Of a dotted key the last part alone may be near too: ``max_step`` is ``trainer.max_steps``.
    """
    whole = difflib.get_close_matches(name, known, n=_SHOWN, cutoff=_CUTOFF)
    last = name.rpartition(".")[2]
    by_last: dict[str, list[str]] = {}
    for each in known:
        by_last.setdefault(each.rpartition(".")[2], []).append(each)
    parts = difflib.get_close_matches(last, by_last, n=1, cutoff=0.85)
    found = [*whole, *(each for part in parts for each in by_last[part] if each not in whole)]
    return found[:_SHOWN]


def did_you_mean(name: str, known: Collection[str]) -> str:
    """``; did you mean a or b?`` for the end of a message, or nothing."""
    near = nearest(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""
