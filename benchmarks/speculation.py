"""What asking without waiting saves. ``python -m benchmarks.speculation BUNDLE``.

Texts of the closed world are written greedily by the bundle's model, asking its fact table, or with ``--helper FOLDER``
a larger model with the same tokenizer. Every reply takes ``--latency`` seconds. The same answers are made waiting for
each reply, and with several questions of a request under way at once; that the texts are the same is checked.

Two times are taken in turns. Wall time, with the helper asked in threads as the server does. And the time on a clock
of its own, to which other load on the machine adds nothing: the CPU time of the thread that decodes, and the helper's
latency where no request can go on before a reply comes.
Options: ``--at-once 1,2,4,8 --clients 1,8 --requests 16 --tokens 128 --latency 0.1 --rounds 3``.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import Result, add_record_option, given_command, record
from components.cascade.decoding import Cascade, CascadeAnswer, CascadeRequest, CascadeToken
from components.cascade.helpers.base import Call, Helper, HelperError, Reply, StatelessHelper
from components.cascade.helpers.fact_table import FactTableHelper
from components.cascade.helpers.model import ModelHelper
from components.data.world.comprehension import World
from components.deployment.bundle import load_bundle
from components.deployment.engine import _Aside
from components.evaluation.factuality.generated import subjects
from components.model.bundle import Bundle
from components.model.generate import text_sampling

GOAL = "<= 0.6 x"


class Distant(StatelessHelper):
    """``helper`` as if each of its answers came from far away."""

    def __init__(self, helper: Helper, latency: float) -> None:
        self._helper, self._latency = helper, latency

    @property
    def name(self) -> str:
        return self._helper.name

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        began = time.perf_counter()
        replies = self._helper.answer(calls)
        time.sleep(max(0.0, self._latency - (time.perf_counter() - began)))
        return replies


class Clock(Executor):
    """Asks at once, and has the reply come ``latency`` seconds later on a clock that other load does not move."""

    def __init__(self, latency: float) -> None:
        self.latency, self.seconds = latency, 0.0
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._at = time.thread_time()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        self.seconds += time.thread_time() - self._at
        future: Future[Any] = Future()
        found = fn(*args, **kwargs)
        self._due.append((self.seconds + self.latency, partial(future.set_result, found)))
        self._at = time.thread_time()  # the helper works elsewhere
        return future

    def go_on(self, stuck: bool) -> None:
        """Hand over what has come; if nothing can go on without a reply, wait for the next."""
        self.seconds += time.thread_time() - self._at
        if stuck and self._due:
            self.seconds = max(self.seconds, self._due[0][0])
        while self._due and self._due[0][0] <= self.seconds:
            self._due.pop(0)[1]()
        self._at = time.thread_time()


@dataclass(frozen=True)
class Run:
    """All requests, answered once."""

    wall: float
    clock: float
    ids: list[list[int]]
    calls: int
    discarded: int


def main() -> None:
    """Measure, and print a row for each number of clients and of questions at once."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speculation", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--helper", type=Path, help="folder of a larger model with the same tokenizer")
    parser.add_argument("--at-once", default="1,2,4,8", help="questions of a request under way at once")
    parser.add_argument("--clients", default="1,8", help="requests answered together")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds that a reply takes")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    add_record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"{options.requests} answers of up to {options.tokens} tokens, {options.latency * 1e3:.0f} ms")
    for column in ("clients", "at once", "calls", "discarded", "clock s", "of waiting", "wall s", "of waiting"):
        table.add_column(column, justify="right")
    results: list[Result] = []
    for clients in map(int, options.clients.split(",")):
        for row, result in _measured(options, clients):
            table.add_row(*row)
            results.append(result)
    console = Console(width=140)
    console.print(table)
    console.print(f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if options.record:
        record("speculation", results, given_command("benchmarks.speculation"))


def _measured(options: argparse.Namespace, clients: int) -> Iterator[tuple[list[str], Result]]:
    """A row for each number of questions at once, medians of rounds in turns."""
    numbers = sorted({1, *map(int, options.at_once.split(","))})
    writer = Writer(options, clients)
    writer.run(1)
    rounds = [{at_once: writer.run(at_once) for at_once in numbers} for _ in range(options.rounds)]
    waiting = [each[1] for each in rounds]
    for at_once in numbers:
        runs = [each[at_once] for each in rounds]
        if any(run.ids != waiting[0].ids for run in runs):
            raise SystemExit(f"with {at_once} questions at once the texts are others")
        clock = statistics.median(run.clock / base.clock for run, base in zip(runs, waiting, strict=True))
        wall = statistics.median(run.wall / base.wall for run, base in zip(runs, waiting, strict=True))
        calls, discarded = runs[0].calls, runs[0].discarded
        figures = statistics.median(run.clock for run in runs), clock, statistics.median(run.wall for run in runs), wall
        yield (
            [*map(str, (clients, at_once, calls, discarded)), *(f"{each:.2f}" for each in figures)],
            Result(
                f"{writer.helper.name} at {options.latency * 1e3:.0f} ms, {clients} client(s), up to {at_once} "
                "question(s) of each at once: time, of that with waiting",
                f"{clock:.2f} x",
                GOAL if clients == 1 and at_once > 1 else "",
                f"wall time {wall:.2f} x; {discarded} calls discarded beside {calls}",
            ),
        )


class Writer:
    """Answers the same requests again and again."""

    def __init__(self, options: argparse.Namespace, clients: int) -> None:
        self._bundle, self._clients, self._latency = load_bundle(options.bundle), clients, options.latency
        model, tokenizer = self._bundle.model, self._bundle.tokenizer
        world = World.load(options.bundle / Bundle.FACTS)
        self.helper: Helper = FactTableHelper(world, tokenizer)
        if options.helper is not None:
            self.helper = ModelHelper.load(options.helper, options.bundle)
        penalty = self._bundle.manifest.presence_penalty
        sampling = text_sampling(
            tokenizer.special,
            min(options.tokens, model.config.context_length),
            temperature=options.temperature,
            presence_penalty=penalty,
        )
        names = subjects(world, options.requests)
        self._requests = [
            CascadeRequest([tokenizer.end_of_text_id, *tokenizer.encode(name)], sampling) for name in names
        ]

    def run(self, at_once: int) -> Run:
        """All requests, with so many questions of each under way at once: by the wall, and by the clock."""
        clock = Clock(self._latency)
        answers = self._by_clock(clock, at_once)
        began = time.perf_counter()
        in_threads = self._cascade(Distant(self.helper, self._latency), _Aside(), at_once)
        found = in_threads.answers(self._requests, self._clients)
        wall = time.perf_counter() - began
        ids = [answer.ids for answer in answers]
        if ids != [answer.ids for answer in found]:
            raise SystemExit("the texts depend on when replies come")
        summaries = [answer.summary for answer in answers]
        calls, discarded = sum(each.calls for each in summaries), sum(each.discarded_calls for each in summaries)
        return Run(wall, clock.seconds, ids, calls, discarded)

    def _by_clock(self, clock: Clock, at_once: int) -> list[CascadeAnswer]:
        decoding = self._cascade(self.helper, clock, at_once).decoding()
        waiting = list(self._requests)
        tokens: dict[int, list[CascadeToken]] = {}
        answers: dict[int, CascadeAnswer] = {}
        while waiting or decoding.active:
            while waiting and decoding.active < self._clients:
                decoding.add(waiting.pop(0))
            clock.go_on(all(row.waiting for row in decoding._rows))
            for step in decoding.step():
                if step.error is not None:
                    raise step.error
                tokens.setdefault(step.request, []).extend(step.tokens)
                if step.finish is not None and step.summary is not None:
                    answers[step.request] = CascadeAnswer(tuple(tokens[step.request]), step.finish, step.summary)
        return [answers[number] for number in range(len(self._requests))]

    def _cascade(self, helper: Helper, executor: Executor, at_once: int) -> Cascade:
        bundle = self._bundle
        assert bundle.delegation is not None, "give the bundle of a model that asks"
        record = bundle.delegation
        return Cascade(
            bundle.model,
            bundle.tokenizer,
            helper,
            record.calibration,
            record.cascade,
            executor=executor,
            questions_at_once=at_once,
        )


if __name__ == "__main__":
    main()
