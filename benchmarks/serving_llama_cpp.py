"""Our server beside llama.cpp's, which runs the same weights. ``python -m benchmarks.serving --llama-cpp``.

llama.cpp's server (``xllamacpp``) runs in a process of its own, with its own defaults but for threads, slots and
context: f16 caches, flash attention, a prompt cache for each slot. Both answer the same prompts greedily in streams,
one client and eight, in turns. Every rate is given in wall time and in CPU time of the server's process, each the best
of the rounds.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.results import Result
from benchmarks.serving import CLIENTS, PRESETS, VOCAB_SIZE, VOCAB_SIZES, make_prompts, random_bundle, serve
from components.deployment.bundle import load_bundle
from components.deployment.export.config import Precision
from components.deployment.export.gguf_file import write_gguf
from components.deployment.smoke import server
from components.model.config import ModelConfig

PRECISIONS: tuple[Precision, ...] = ("f32", "f16")
# Goals by the number of clients.
GOALS = {1: (0.8, ">= 0.8 x"), CLIENTS: (1.0, "> 1 x")}
_TIMEOUT_SECONDS = 300.0

Ask = Callable[[Sequence[Sequence[int]], int], None]


@dataclass
class Contender:
    """A server that answers, and how fast it was."""

    ask: Ask
    """Answers of equal length to all prompts at once."""
    process: psutil.Process
    wall: dict[int, list[float]] = field(default_factory=dict)
    """Tokens per second of every round, by the number of clients."""
    cpu: dict[int, list[float]] = field(default_factory=dict)
    """Tokens per second of CPU time."""

    def take_turn(self, prompts: Sequence[Sequence[int]], tokens: int) -> None:
        """Answer, and note how fast."""
        before, started = self._cpu_seconds(), time.perf_counter()
        self.ask(prompts, tokens)
        seconds, cpu_seconds = time.perf_counter() - started, self._cpu_seconds() - before
        written = len(prompts) * tokens
        self.wall.setdefault(len(prompts), []).append(written / seconds)
        self.cpu.setdefault(len(prompts), []).append(written / cpu_seconds)

    def _cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def measured(name: str, options: argparse.Namespace) -> list[Result]:
    """The rows of one shape, for every precision of the exported file."""
    shape = ModelConfig(**yaml.safe_load((PRESETS / f"{name}.yaml").read_text()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = random_bundle(shape, VOCAB_SIZES.get(name, VOCAB_SIZE), folder)
        model = f"{bundle.metrics['parameters'] / 1e6:.1f} M ({name})"
        prompts = make_prompts(options.prompt_tokens, load_bundle(bundle.folder).model.vocab_size)
        flags = ["--name=b", f"--threads={options.threads}", f"--max-concurrent-requests={CLIENTS}"]
        rows: list[Result] = []
        for precision in PRECISIONS:
            path = folder / f"{precision}.gguf"
            write_gguf(load_bundle(bundle.folder).model, bundle.folder, path, "b", precision)
            with (
                server(bundle.folder, folder / "log", _TIMEOUT_SECONDS, flags) as url,
                llama_cpp(path, options.threads, CLIENTS * (options.prompt_tokens + options.tokens + 8)) as theirs,
            ):
                ours = _ours(int(url.rpartition(":")[2]))
                _rounds(ours, theirs, prompts, options)
            rows += [_row(model, precision, clients, ours, theirs) for clients in GOALS]
    return rows


def _rounds(ours: Contender, theirs: Contender, prompts: Sequence[Sequence[int]], options: argparse.Namespace) -> None:
    for contender in (ours, theirs):
        contender.ask(prompts, 8)  # warm up
    for number in range(options.rounds):
        for clients in GOALS:
            turns = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            for contender in turns:
                contender.take_turn(prompts[:clients], options.tokens)


def _row(model: str, precision: str, clients: int, ours: Contender, theirs: Contender) -> Result:
    _, goal = GOALS[clients]
    our_best, their_best = max(ours.wall[clients]), max(theirs.wall[clients])
    our_cpu, their_cpu = max(ours.cpu[clients]), max(theirs.cpu[clients])
    return Result(
        f"{model}: {clients} client{'s' * (clients > 1)} against llama.cpp, {precision} file",
        f"{our_best / their_best:.2f} x",
        goal,
        f"{our_best:.0f} against {their_best:.0f} tokens/s; for each second of CPU time {our_cpu / their_cpu:.2f} x, "
        f"{our_cpu:.0f} against {their_cpu:.0f}",
    )


def _ours(port: int) -> Contender:
    listening = [each for each in psutil.Process().children() if port in _ports(each)]
    return Contender(lambda prompts, tokens: serve(port, prompts, [tokens] * len(prompts)), listening[0])


def _ports(process: psutil.Process) -> list[int]:
    """On which the process listens."""
    return [each.laddr.port for each in process.net_connections() if each.status == psutil.CONN_LISTEN]


@contextmanager
def llama_cpp(path: Path, threads: int, context: int) -> Iterator[Contender]:
    """llama.cpp's server for a GGUF file, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving_llama_cpp", str(path), str(threads), str(context)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        address = next((line for line in process.stdout if line.startswith("http://")), "")
        if not address:
            raise SystemExit(f"llama.cpp's server for {path} did not start; is xllamacpp installed?")
        port = int(address.rpartition(":")[2])
        yield Contender(lambda prompts, tokens: _all(port, prompts, tokens), psutil.Process(process.pid))
    finally:
        process.communicate()  # the end of its standard input ends it


def _all(port: int, prompts: Sequence[Sequence[int]], tokens: int) -> None:
    with ThreadPoolExecutor(len(prompts)) as threads:
        for written in threads.map(lambda prompt: _ask(port, prompt, tokens), prompts):
            assert written == tokens


def _ask(port: int, prompt: Sequence[int], tokens: int) -> int:
    """Stream one answer; returns how many tokens were written. Events are read at the end, as for our server."""
    body = {"prompt": list(prompt), "n_predict": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    with closing(connection):
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        events = answer.read().decode().strip().split("\n\n")
    if answer.status != 200:
        raise SystemExit(f"llama.cpp answered {answer.status}: {events}")
    last: dict[str, Any] = json.loads(events[-1].removeprefix("data: "))
    return int(last["tokens_predicted"])


def _run_llama_cpp(path: str, threads: int, context: int) -> None:
    """Serve until the end of standard input."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx, parameters.n_parallel = context, CLIENTS
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.port = 0
    running = xllamacpp.Server(parameters)
    print(running.listening_address, flush=True)
    sys.stdin.read()
    del running


if __name__ == "__main__":
    _run_llama_cpp(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
