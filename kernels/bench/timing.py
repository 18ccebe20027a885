"""Times of several programs, in turns, on distinct inputs: medians with the 20th and 80th percentile.

Like ``triton.testing.do_bench`` a round flushes the cache and puts events around the call, and nothing waits for the
device before the end. Unlike there, the programs take turns (a clock that drifts touches all of them alike), each
round may get other inputs, and what a round needs first (the forward pass of a timed backward) stays outside.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import torch

FLUSHED_BYTES = 256 * 2**20  # several times the largest L2 so far


@dataclass(frozen=True)
class Program:
    """Something to time. ``run`` is timed; ``prepare`` gets the number of the round and makes what ``run`` takes."""

    name: str
    run: Callable[[Any], object]
    prepare: Callable[[int], Any] = field(default=lambda number: number)


@dataclass(frozen=True)
class Spread:
    """Milliseconds: the median and the middle three fifths."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Spread":
        if len(milliseconds) == 1:
            return cls(*[milliseconds[0]] * 3)
        fifths = quantiles(milliseconds, n=10, method="inclusive")
        return cls(fifths[4], fifths[1], fifths[7])

    def __add__(self, other: "Spread") -> "Spread":
        return Spread(self.median + other.median, self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Spread":
        return Spread(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Failed:
    """Why a program has no time."""

    reason: str


class DeviceLostError(RuntimeError):
    """The device answers no more in this process, for example after an illegal memory access."""


class Stopwatch:
    """Times programs on one device.

    Arguments:
        device: CUDA uses device events; on a CPU (rehearsals) the host's clock stands in.
        budget_ms: about how long each program is run for, after warm-up.
        rounds: the least and the most rounds of each.
    """

    def __init__(self, device: torch.device, budget_ms: float = 300.0, rounds: tuple[int, int] = (5, 200)) -> None:
        self.device = device
        self.budget_ms = budget_ms
        self.rounds = rounds
        self._flushed = torch.empty(FLUSHED_BYTES if self._cuda else 1, dtype=torch.int8, device=device)

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"

    def measure(self, programs: Sequence[Program]) -> dict[str, Spread | Failed]:
        """By name: the time of each program, or why it did not run. One that fails does not keep the others."""
        measured: dict[str, Spread | Failed] = {}
        able: list[Program] = []
        slowest = 0.0
        for program in programs:
            try:
                slowest = max(slowest, self._warm_up(program))
                able.append(program)
            except Exception as error:  # a baseline that this machine lacks must not end the table
                measured[program.name] = Failed(reason_of(error))
                self._tidy()
        least, most = self.rounds
        rounds = max(least, min(most, int(self.budget_ms / max(slowest, 1e-3))))
        marks: dict[str, list[Any]] = {program.name: [] for program in able}
        for number in range(rounds):
            for program in able if number % 2 == 0 else reversed(able):
                marks[program.name].append(self._once(program, number))
        self._wait()
        for program in able:
            measured[program.name] = Spread.of([_milliseconds(mark) for mark in marks[program.name]])
        return measured

    def peak_bytes(self, program: Program) -> int | Failed:
        """What the program allocates at most beyond what is there before it. CUDA only."""
        if not self._cuda:
            return Failed("torch counts peak memory on CUDA only")
        try:
            prepared = program.prepare(0)
            self._tidy()
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            kept = program.run(prepared)
            self._wait()
            peak = torch.cuda.max_memory_allocated(self.device) - before
            del kept
            return peak
        except Exception as error:
            return Failed(reason_of(error))
        finally:
            self._tidy()

    def check(self) -> None:
        """Raises ``DeviceLostError`` if the device answers no more."""
        try:
            self._wait()
        except RuntimeError as error:
            raise DeviceLostError(reason_of(error)) from error

    def _warm_up(self, program: Program) -> float:
        program.run(program.prepare(0))  # compiles
        self._wait()
        marks = [self._once(program, number) for number in range(1, 1 + min(2, self.rounds[0]))]
        self._wait()
        return max(_milliseconds(mark) for mark in marks)

    def _once(self, program: Program, number: int) -> Any:
        prepared = program.prepare(number)
        self._flushed.zero_()
        if not self._cuda:
            start = time.perf_counter()
            program.run(prepared)
            return start, time.perf_counter()
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record()
        program.run(prepared)
        after.record()
        return before, after

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self.device)

    def _tidy(self) -> None:
        gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()


def reason_of(error: Exception) -> str:
    """The first line of an error, short enough for a table."""
    first = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[0]}"[:160]


def _milliseconds(mark: Any) -> float:
    before, after = mark
    return 1e3 * (after - before) if isinstance(before, float) else float(before.elapsed_time(after))
