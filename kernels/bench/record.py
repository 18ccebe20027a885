"""What a run found: rows for the table of goals, and every single measurement for the CSV file."""

import csv
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kernels.bench.goals import GOALS, Goal, Kernel
from kernels.bench.timing import Failed, Program, Spread, Stopwatch

COLUMNS = (
    "kernel provider mode metric x value p20 p80 config gpu timestamp torch triton cuda python rehearsal".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Row:
    """One line of the table: a goal at one shape."""

    goal: Goal
    shape: str
    ours: str = ""
    baseline: str = ""
    value: float | None = None
    reason: str = ""  # why there is no value, or why the value is no verdict
    expected: float | None = None  # what arithmetic and published figures say of one H200

    @property
    def verdict(self) -> str:
        """``pass``, ``FAIL``, or the reason why neither can be said."""
        if self.reason:
            return self.reason
        if self.value is None or not self.goal.must.holds(self.value):
            return "FAIL"
        return "pass, stretch too" if self.goal.stretch and self.goal.stretch.holds(self.value) else "pass"

    def cells(self) -> list[str]:
        """As text, in the order of ``report.HEADINGS``."""
        value = "" if self.value is None else f"{self.value:.4g}"
        expected = "" if self.expected is None else f"{self.expected:.2g}"
        stretch = str(self.goal.stretch or "")
        return [
            self.goal.name,
            self.shape,
            self.ours,
            self.baseline,
            value,
            expected,
            str(self.goal.must),
            stretch,
            self.verdict,
        ]


@dataclass(frozen=True)
class Measurement:
    """One line of the CSV file."""

    kernel: str
    provider: str
    mode: str
    metric: str
    x: float
    spread: Spread
    config: dict[str, object]


@dataclass(frozen=True)
class Found:
    """What one section has found. ``result`` is JSON."""

    rows: list[Row]
    measurements: list[Measurement]
    result: Any


@dataclass
class Record:
    """The stopwatch of a run and everything it found.

    Arguments:
        stopwatch: times programs on the device of the run.
        ours: the implementation that our kernels run with: ``triton``, or ``torch`` in a rehearsal without interpreter.
        rehearsal: tiny shapes, on any device; no row is a verdict.
        quick: fewer shapes.
        say: takes a line of progress.
    """

    stopwatch: Stopwatch
    ours: str
    rehearsal: bool = False
    quick: bool = False
    say: Callable[[str], object] = print
    rows: list[Row] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.stopwatch.device

    def row(
        self,
        goal: str,
        shape: str,
        ours: str = "",
        baseline: str = "",
        value: float | None = None,
        reason: str = "",
        expected: float | None = None,
    ) -> None:
        """Adds a row. In a rehearsal the value stands, the verdict does not."""
        if self.rehearsal:
            reason = f"rehearsal, no goal{f' (not run: {reason})' if reason else ''}"
        elif reason:
            reason = f"not run ({reason})"
        self.rows.append(Row(GOALS[goal], shape, ours, baseline, value, reason, expected))

    def ratio(
        self,
        goal: str,
        shape: str,
        ours: Spread | Failed,
        baseline: Spread | Failed,
        *,
        speed_up: bool = True,
        note: str = "",
        expected: float | None = None,
    ) -> None:
        """Adds the row of two times: baseline over ours as a speed-up, else ours over the baseline."""
        reason = next((part.reason for part in (ours, baseline) if isinstance(part, Failed)), "")
        if isinstance(ours, Failed) or isinstance(baseline, Failed):
            self.row(goal, shape, _shown(ours), _shown(baseline), None, reason, expected)
            return
        value = baseline.median / ours.median if speed_up else ours.median / baseline.median
        self.row(goal, shape, _shown(ours), f"{_shown(baseline)}{note}", value, expected=expected)

    def share(
        self, goal: str, shape: str, ours: int | Failed, baseline: int | Failed, expected: float | None = None
    ) -> None:
        """Adds the row of two amounts of memory, in bytes: ours over the baseline's."""
        reason = next((part.reason for part in (ours, baseline) if isinstance(part, Failed)), "")
        if isinstance(ours, Failed) or isinstance(baseline, Failed):
            self.row(goal, shape, reason=reason, expected=expected)
            return
        shown = f"{ours / 1e6:,.0f} MB", f"{baseline / 1e6:,.0f} MB"
        self.row(goal, shape, *shown, ours / max(baseline, 1), expected=expected)

    def measure(
        self, kernel: Kernel, mode: str, x: float, config: dict[str, object], programs: list[Program]
    ) -> dict[str, Spread | Failed]:
        """Times the programs in turns and keeps each time for the CSV file."""
        times = self.stopwatch.measure(programs)
        for name, spread in times.items():
            if isinstance(spread, Spread):
                self.keep(kernel, name, mode, "milliseconds", x, spread, config)
            else:
                self.say(f"    {kernel} {mode} {x:g}: {name} not run ({spread.reason})")
        return times

    def keep(
        self, kernel: str, provider: str, mode: str, metric: str, x: float, spread: Spread, config: dict[str, object]
    ) -> None:
        """Keeps one measurement for the CSV file and the charts."""
        self.measurements.append(Measurement(kernel, provider, mode, metric, x, spread, config))

    def peak(self, kernel: Kernel, mode: str, x: float, config: dict[str, object], program: Program) -> int | Failed:
        """The extra memory of a program at its peak, in bytes; kept for the CSV file."""
        peak = self.stopwatch.peak_bytes(program)
        if isinstance(peak, int):
            self.keep(kernel, program.name, mode, "peak_bytes", x, Spread(peak, peak, peak), config)
        return peak

    def restore(self, found: Found) -> None:
        """Takes over what an earlier run has found."""
        self.rows += found.rows
        self.measurements += found.measurements

    def complete(self, reason: str) -> None:
        """Adds a ``not run`` row for every goal that has none, and puts the rows in the order of the goals."""
        met = {row.goal.name for row in self.rows}
        for goal in GOALS.keys() - met:
            self.row(goal, "", reason=reason)
        order = list(GOALS)
        self.rows.sort(key=lambda row: order.index(row.goal.name))  # stable: shapes keep their order

    def append_csv(self, path: Path, measurements: list[Measurement]) -> None:
        """Appends measurements; a file of several runs tells them apart by ``timestamp`` and ``gpu``."""
        machine = describe(self.device)
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            lines = csv.DictWriter(file, COLUMNS)
            if fresh:
                lines.writeheader()
            for one in measurements:
                spread, config = one.spread, json.dumps(one.config, sort_keys=True)
                values = {"x": one.x, "value": spread.median, "p20": spread.low, "p80": spread.high, "config": config}
                key = {"kernel": one.kernel, "provider": one.provider, "mode": one.mode, "metric": one.metric}
                lines.writerow({**key, **values, **machine, "rehearsal": int(self.rehearsal)})


def describe(device: torch.device) -> dict[str, str]:
    """What a value depends on beside the code: the device and the versions; and the time."""
    cuda = device.type == "cuda"
    return {
        "gpu": torch.cuda.get_device_name(device) if cuda else f"none ({platform.machine()})",
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": str(torch.__version__),
        "triton": installed("triton"),
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
    }


def installed(package: str) -> str:
    """The version of a package, or ``none``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _shown(time: Spread | Failed) -> str:
    if isinstance(time, Failed):
        return "not run"
    return f"{time.median:.3f} ms ({time.low:.3f} to {time.high:.3f})"
