"""Findings on the terminal, and as JSON. Without Rich, which may be broken; and lines that are not framed copy well."""

import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping

from flows.doctor.finding import Finding, State, counted

_COLOURS: Mapping[State, str] = {"ok": "\033[32m", "warning": "\033[33m", "fault": "\033[1;31m"}
_PLAIN = "\033[0m"
_NARROWEST = 40


def as_text(findings: Mapping[str, Finding], *, coloured: bool | None = None, width: int = 0) -> str:
    """One paragraph for each finding and a line that counts them.

    Arguments:
        coloured: whether to colour the states; ``None``: on a terminal.
        width: columns; 0: those of the terminal. Remedies are never broken.
    """
    coloured = sys.stdout.isatty() if coloured is None else coloured
    width = width or shutil.get_terminal_size((120, 24)).columns
    return "\n".join([*_lines(findings, coloured, width), "", count(findings)])


def count(findings: Mapping[str, Finding]) -> str:
    """How many of each state there are, in words."""
    states = Counter(finding.state for finding in findings.values())
    return f"{counted(states['fault'], 'fault')}, {counted(states['warning'], 'warning')}, {states['ok']} ok"


def as_json(findings: Mapping[str, Finding]) -> str:
    """The same for programs: a list of objects with ``check``, ``state``, ``found`` and ``remedy``."""
    return json.dumps([{"check": name, **finding._asdict()} for name, finding in findings.items()], indent=2)


def _lines(findings: Mapping[str, Finding], coloured: bool, width: int) -> Iterator[str]:
    names = max(map(len, findings), default=0)
    for name, finding in findings.items():
        state = f"{finding.state:<7}"
        shown = f"{_COLOURS[finding.state]}{state}{_PLAIN}" if coloured else state
        margin = " " * (len(state) + names + 4)
        room = max(_NARROWEST, width - len(margin))
        first, *rest = textwrap.wrap(finding.found, room, break_long_words=False, break_on_hyphens=False) or [""]
        yield f"{shown}  {name:<{names}}  {first}"
        yield from (margin + line for line in rest)
        if finding.remedy:
            yield f"{margin}-> {finding.remedy}"
