"""What clients notice when the champion moves, and what the server costs then. ``python -m benchmarks.rollover``.

A real registry, ``lacewing serve`` in a process of its own, and clients that stream greedy answers without a pause:
5 % of the requests are malformed, 5 % of the clients leave in the middle. Meanwhile the second of two versions is
promoted, and then rolled back, ``--rounds`` times. Every whole answer is compared with what the version that it names
writes alone. A gap is the time between two pieces of one answer. The window of a swap reaches from the move of the
alias to one second after the first answer of the new version: what loads beside the old version costs most in there.
The memory before the moves is the median while the second fifth of the requests is answered.
Options: ``--shape quick --requests 1000 --clients 32 --tokens 24 --threads 2 --rounds 1``. Random weights of a preset's
size.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import httpx
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.results import Result, add_record_option, given_command, record
from benchmarks.serving import PRESETS, VOCAB_SIZE, VOCAB_SIZES, random_bundle
from components.core.artifact import Artifact
from components.deployment.decoding import Request
from components.deployment.engine import Engine
from components.deployment.in_process import answer
from components.deployment.versioned import MODEL_HEADER
from components.model.config import ModelConfig

if TYPE_CHECKING:
    from flows.promotion import Registry

MALFORMED = ({"prompt": 7}, {"prompt": "a", "temperature": 9}, {"prompt": "a", "colour": "red"}, {"max_tokens": 1}, "{")
LONGEST_PROMPT = 24
SETTLED_SECONDS = 1.0
PATIENCE_SECONDS = 300.0


@dataclass
class Seen:
    """What became of one request."""

    number: int
    kind: str
    """``whole``, ``left`` or ``malformed``."""
    began: float
    version: str = ""
    status: int = 0
    text: str = ""
    ended: bool = False
    pieces: list[float] = field(default_factory=list)
    """When each piece came."""
    fault: str = ""


@dataclass
class Load:
    """Clients that ask one after another until all requests are asked, and what they saw."""

    url: str
    prompts: Sequence[Sequence[int]]
    tokens: int
    clients: int
    seen: list[Seen] = field(default_factory=list)

    def run(self) -> None:
        """Ask everything."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        numbers = iter(range(len(self.prompts)))
        limits = httpx.Limits(max_connections=self.clients)
        async with httpx.AsyncClient(base_url=self.url, timeout=120.0, trust_env=False, limits=limits) as client:
            await asyncio.gather(*(self._client(client, numbers) for _ in range(self.clients)))

    async def _client(self, client: httpx.AsyncClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            kind = "malformed" if number % 20 == 7 else "left" if number % 20 == 13 else "whole"
            seen = Seen(number, kind, time.monotonic())
            try:
                await self._ask(client, number, seen)
            except (httpx.HTTPError, ValueError) as error:
                seen.fault = repr(error)
            self.seen.append(seen)

    async def _ask(self, client: httpx.AsyncClient, number: int, seen: Seen) -> None:
        body: object = {"prompt": list(self.prompts[number]), "max_tokens": self.tokens, "temperature": 0}
        if seen.kind == "malformed":
            body = MALFORMED[number // 20 % len(MALFORMED)]
        content = body if isinstance(body, str) else json.dumps({**body, "stream": True})  # type: ignore[dict-item]
        async with client.stream("POST", "/v1/completions", content=content, headers=_JSON) as response:
            seen.status, seen.version = response.status_code, response.headers.get(MODEL_HEADER, "")
            async for piece in _pieces(response):
                seen.pieces.append(time.monotonic())
                seen.text += piece
                if seen.kind == "left" and len(seen.pieces) == self.tokens // 2:
                    return
            seen.ended = True


_JSON = {"Content-Type": "application/json"}


async def _pieces(response: httpx.Response) -> AsyncIterator[str]:
    """The texts of a stream; raises ``ValueError`` if it does not end as it should."""
    last = ""
    async for line in response.aiter_lines():
        if response.is_success and line and (last := line.removeprefix("data: ")) != "[DONE]":
            yield json.loads(last)["choices"][0]["text"]
    if response.is_success and last != "[DONE]":
        raise ValueError(f"the stream ends with {last!r}")


@dataclass
class Move:
    """The alias moved, and the server after it; times of the monotonic clock."""

    alias: float
    served: float


@dataclass
class Measured:
    """One run."""

    seen: list[Seen]
    promotions: list[Move]
    rollbacks: list[Move]
    steady_mb: float
    peak_mb: float
    end_mb: float
    watcher_mb: float


def main() -> None:
    """Measure one shape and print its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollover", description=__doc__)
    parser.add_argument("--shape", default="quick", help="preset of the model")
    parser.add_argument("--requests", type=int, default=1000, help="before and after the promotion, together")
    parser.add_argument("--clients", type=int, default=32, help="requests at a time")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of every answer")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the server")
    parser.add_argument("--rounds", type=int, default=1, help="promotions, each with its rollback")
    add_record_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lacewing-rollover-") as scratch:
        os.environ["LACEWING_WORKSPACE"] = str(Path(scratch) / "workspace")
        results = _measure(options, Path(scratch))
    table = Table("what", "measured", "goal", "remark", title=f"rollover of {options.shape}, {options.clients} clients")
    for result in results:
        table.add_row(result.what, result.measured, result.goal, result.remark)
    console = Console(width=180)
    console.print(table)
    if options.record:
        record(f"rollover {options.shape}", results, given_command("benchmarks.rollover"))
    console.print(f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _measure(options: argparse.Namespace, folder: Path) -> list[Result]:
    from conf.services import TrackingConfig
    from flows.promotion import Registry

    shape = ModelConfig.model_validate(yaml.safe_load((PRESETS / f"{options.shape}.yaml").read_text()))
    vocab = VOCAB_SIZES.get(options.shape, VOCAB_SIZE)
    registry = Registry(TrackingConfig())
    bundles = {f"lacewing/{seed}": random_bundle(shape, vocab, folder / str(seed), seed) for seed in (1, 2)}
    for bundle in bundles.values():
        registry.register(bundle)
    registry.promote(1, "the first", by="benchmark")
    draw = random.Random(0)
    lengths = [draw.randint(4, LONGEST_PROMPT) for _ in range(options.requests)]
    prompts = [[draw.randrange(5, vocab) for _ in range(length)] for length in lengths]
    with _server(folder / "log", options) as (url, process):
        measured = _run(url, process, registry, prompts, options)
    texts = {name: _alone(bundle, prompts, options) for name, bundle in bundles.items()}
    return _results(measured, texts, options)


@contextmanager
def _server(log: Path, options: argparse.Namespace) -> Iterator[tuple[str, psutil.Process]]:
    """`lacewing serve` on a free port: its address and its process, which has become the server's."""
    settings = [f"threads={options.threads}", "port=0", "follow_seconds=1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", *settings], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _until(lambda: " on http://" in log.read_text() or process.poll() is not None)
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        yield log.read_text().split(" on ")[-1].split()[0], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)
        print(log.read_text())


def _run(
    url: str,
    process: psutil.Process,
    registry: "Registry",
    prompts: Sequence[Sequence[int]],
    options: argparse.Namespace,
) -> Measured:
    load = Load(url, prompts, options.tokens, options.clients)
    asking = threading.Thread(target=load.run)
    memory: list[float] = []
    stop = threading.Event()

    def watch_memory() -> None:
        while not stop.wait(0.05):
            memory.append(process.memory_info().rss / 1e6)

    threading.Thread(target=watch_memory, daemon=True).start()
    _until(lambda: httpx.get(f"{url}/v1/about", trust_env=False).json()["registry"]["looked"] > 0.0)
    asking.start()
    _until(_asked(load, 0.2))
    warm = len(memory)
    _until(_asked(load, 0.4))
    steady = median(memory[warm:])
    promotions, rollbacks = [], []
    for number in range(options.rounds):
        _until(_asked(load, 0.4 + 0.6 * number / options.rounds))
        promotions.append(_moved(url, "lacewing/2", partial(registry.promote, 2, "again", allow_rolled_back=True)))
        _until(_asked(load, 0.4 + 0.6 * (number + 0.5) / options.rounds))
        rollbacks.append(_moved(url, "lacewing/1", partial(registry.rollback, "measured")))
    asking.join()
    _until(
        lambda: (
            "lacewing/2"
            not in httpx.get(f"{url}/metrics", trust_env=False)
            .text.split("version_loaded", 3)[-1]
            .partition("# HELP")[0]
        )
    )
    time.sleep(1.0)
    stop.set()
    watcher = _watcher(process)
    return Measured(
        load.seen,
        promotions,
        rollbacks,
        steady,
        max(memory),
        process.memory_info().rss / 1e6,
        watcher.memory_info().rss / 1e6 if watcher is not None else 0.0,
    )


def _watcher(process: psutil.Process) -> psutil.Process | None:
    return next(iter(process.children()), None)


def _asked(load: Load, share: float) -> Callable[[], bool]:
    return lambda: len(load.seen) > share * len(load.prompts)


def _moved(url: str, version: str, move: Callable[[], object]) -> Move:
    """Move the alias, and wait until the server has followed."""
    move()
    alias = time.monotonic()
    _until(lambda: httpx.get(f"{url}/health", trust_env=False, timeout=60.0).json()["version"] == version)
    return Move(alias, time.monotonic())


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"it did not come true within {PATIENCE_SECONDS:g} seconds")
        time.sleep(0.02)


def _alone(bundle: Artifact, prompts: Sequence[Sequence[int]], options: argparse.Namespace) -> list[str]:
    """What the version writes without a server, without other versions, and without anybody who leaves."""
    requests = [Request(list(prompt), max_tokens=options.tokens, temperature=0.0) for prompt in prompts]
    with Engine(bundle.folder, threads=options.threads) as engine:
        return [each.text for each in answer(engine, requests)]


def _results(measured: Measured, texts: Mapping[str, list[str]], options: argparse.Namespace) -> list[Result]:
    seen = measured.seen
    kinds = Counter(each.kind for each in seen)
    whole = [each for each in seen if each.kind == "whole"]
    dropped = [
        each for each in seen if each.fault or (each.kind == "whole" and not (each.status == 200 and each.ended))
    ]
    mixed = [each for each in whole if each.ended and each.text != texts[each.version][each.number]]
    late = [
        each
        for each in seen
        for moves, name in ((measured.promotions, "lacewing/2"), (measured.rollbacks, "lacewing/1"))
        for move in moves
        if each.version != name and move.served < each.began < move.served + 1.0
    ]
    malformed = Counter(each.status for each in seen if each.kind == "malformed")
    by_version = Counter(each.version for each in whole)
    gaps = [(later, later - earlier) for each in seen for earlier, later in pairwise(each.pieces)]
    windows = [(move.alias, move.served + SETTLED_SECONDS) for move in measured.promotions + measured.rollbacks]
    swapping = [gap for at, gap in gaps if any(begin <= at - gap / 2 <= end for begin, end in windows)]
    quiet = [gap for at, gap in gaps if not any(begin <= at - gap / 2 <= end for begin, end in windows)]
    count = f"{kinds['whole']} whole, {kinds['malformed']} malformed, {kinds['left']} left"
    moves = len(windows)
    memory = (
        f"{measured.steady_mb:.0f} MB before, {measured.end_mb:.0f} after {moves} moves, {measured.peak_mb:.0f} at most"
    )
    answered = ", ".join(f"{number} by {name}" for name, number in sorted(by_version.items()))
    return [
        Result("requests", f"{len(seen)}", "1000", f"{count}; {options.clients} at a time, {options.tokens} tokens"),
        Result("dropped or cut short", f"{len(dropped)}", "0", "; ".join({each.fault for each in dropped})[:200]),
        Result("texts that are not those of the version named", f"{len(mixed)}", "0", answered),
        Result("answers of the old version after the swap", f"{len(late)}", "0", ""),
        Result("malformed", ", ".join(f"{n} x {status}" for status, n in malformed.items()), "400 each", ""),
        Result("gap between pieces at the swaps, p99", _ms(swapping, 0.99), "<= 250 ms", _gap_remark(swapping)),
        Result("gap between pieces otherwise, p99", _ms(quiet, 0.99), "", _gap_remark(quiet)),
        Result("from the alias to the new version", _seconds(measured.promotions), "", "loaded, checked, swapped"),
        Result("from the alias to the old version", _seconds(measured.rollbacks), "< 5 s", "rollback, loaded again"),
        Result("memory at the end", f"{measured.end_mb / measured.steady_mb - 1:+.1%}", "within 5 %", memory),
        Result("memory of the process that asks the registry", f"{measured.watcher_mb:.0f} MB", "", ""),
    ]


def _ms(seconds: Sequence[float], quantile: float) -> str:
    ordered = sorted(seconds)
    return f"{ordered[int(quantile * (len(ordered) - 1))] * 1000:.0f} ms" if ordered else "none"


def _gap_remark(gaps: Sequence[float]) -> str:
    return f"median {_ms(gaps, 0.5)}, longest {_ms(gaps, 1.0)}, {len(gaps)} gaps"


def _seconds(moves: Sequence[Move]) -> str:
    """The longest."""
    return f"{max(move.served - move.alias for move in moves):.1f} s"


if __name__ == "__main__":
    main()
