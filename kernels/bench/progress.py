"""What a run has found, on disk after each section, so that the next command goes on where the last one ended.

``progress.jsonl`` holds a line for each section: whose code and machine it is of, the rows, the measurements, and what
else was found. A line of other code, another machine or other settings is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kernels.bench.goals import GOALS
from kernels.bench.record import Found, Measurement, Record, Row, describe
from kernels.bench.sections import Section
from kernels.bench.timing import Spread


class Progress:
    """The sections that ``path`` holds for this code, machine and size of run."""

    def __init__(self, path: Path, record: Record) -> None:
        self.path = path
        self.identity = identity(record)
        self.done: dict[str, Found] = {}
        self.started: set[str] = set()
        """Sections that some command has begun. What is not done of them took its process down, or broke."""
        self.others = 0
        """Lines that belong to other code, another machine or other settings."""
        for line in _lines(path):
            if line["identity"] != self.identity:
                self.others += 1
            elif "rows" in line:
                self.done[line["section"]] = _found(line)
            else:
                self.started.add(line["section"])

    def start(self, section: Section) -> None:
        """Write down that a section is begun."""
        self.started.add(section.name)
        self._append({"section": section.name})

    def add(self, section: Section, found: Found) -> None:
        """Write down what one section has found, at once and for good."""
        self.done[section.name] = found
        rows = [{**asdict(row), "goal": row.goal.name} for row in found.rows]
        measurements = [asdict(one) for one in found.measurements]
        self._append({"section": section.name, "rows": rows, "measurements": measurements, "result": found.result})

    def state(self, section: Section) -> str:
        """``done``, ``stopped`` (it took a process down, or broke) or ``waits``."""
        if section.name in self.done:
            return "done"
        return "stopped" if section.name in self.started else "waits"

    def result(self, section: Section) -> Any:
        """What a section returned; ``None`` if it is not done."""
        found = self.done.get(section.name)
        return None if found is None else found.result

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"identity": self.identity, **line}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def identity(record: Record) -> dict[str, object]:
    """What two sections must share for their figures to stand in one table."""
    machine = {key: value for key, value in describe(record.device).items() if key != "timestamp"}
    size = {"ours": record.ours, "rehearsal": record.rehearsal, "quick": record.quick}
    return {**machine, **size, "code": code_digest()}


def code_digest() -> str:
    """Digest of every source file of ``kernels``, the benchmark's own included."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last is cut off if the machine was taken away while it was written, and goes."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _found(line: dict[str, Any]) -> Found:
    rows = [Row(**{**row, "goal": GOALS[row["goal"]]}) for row in line["rows"]]
    measurements = [Measurement(**{**one, "spread": Spread(**one["spread"])}) for one in line["measurements"]]
    return Found(rows, measurements, line["result"])
