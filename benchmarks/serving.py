"""What the server costs and gives, on random weights of a preset's size. ``python -m benchmarks.serving``.

Tokens per second of plain generation and of the server with 1, 4 and 16 clients (requests are decoded in one batch),
and the time to the first token. The overhead over plain generation is given in wall time and, because other load on the
machine disturbs that, in CPU time per token of the whole server process. All numbers are medians of interleaved rounds.
Options: ``--threads 2 --tokens 128 --prompt-tokens 64``.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import json
import random
import statistics
import string
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import httpx
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import Result, add_record_option, given_command, record
from components.core.artifact import Artifact
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.special_tokens import SpecialTokens
from components.data.tokenizer import save_tokenizer, train_tokenizer
from components.deployment import bundle as bundle_stage
from components.deployment.bundle import load_bundle
from components.deployment.config import BundleStageConfig
from components.deployment.smoke import server
from components.evaluation.artifacts import Scores
from components.model.checkpoint import save_model
from components.model.config import ModelConfig
from components.model.generate import Sampling, generate
from components.model.transformer import Transformer
from components.training.trained import TrainedModel

# The size of ``model=quick``, and one ten times as large, where the matrix products outweigh the bookkeeping.
SHAPES = (
    ModelConfig(),
    ModelConfig(name="12m", layers=8, width=384, hidden_width=1024, heads=6, kv_heads=2, context_length=512),
)
VOCAB_SIZE = 4096
CLIENTS = (4, 16)
ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """What answers took."""

    seconds_per_token: float
    cpu_seconds_per_token: float
    first_token_seconds: float


def main() -> None:
    """Measure every shape and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the forward pass")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of every answer")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="tokens of every prompt")
    add_record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"serving, {options.threads} thread(s), {options.prompt_tokens} + {options.tokens} tokens")
    for column in (
        "parameters",
        "plain tokens/s",
        "1 client tokens/s",
        *(f"{clients} clients tokens/s" for clients in CLIENTS),
        "overhead, wall",
        "overhead, CPU",
        "first token ms, 1 client",
        *(f"{clients} clients" for clients in CLIENTS),
    ):
        table.add_column(column, justify="right")
    results = []
    for shape in SHAPES:
        row = _measure(shape, options.threads, [5 + at for at in range(options.prompt_tokens)], options.tokens)
        table.add_row(*row)
        results.append(_result(row, options.threads))
    Console(width=160).print(table)
    if options.record:
        record("serving", results, given_command("benchmarks.serving"))


def _result(row: list[str], threads: int) -> Result:
    """The same row for ``docs/results.md``."""
    parameters, plain, one, four, sixteen, wall, cpu, first, *_ = row
    return Result(
        f"tokens/s with {parameters} parameters, {threads} thread(s); plain generation {plain}",
        f"1 client {one}, 4 clients {four}, 16 clients {sixteen}",
        remark=f"overhead {wall} wall, {cpu} CPU; first token after {first} ms",
    )


def _measure(shape: ModelConfig, threads: int, prompt: list[int], tokens: int) -> list[str]:
    """One row of the table."""
    options = ["--name=b", f"--threads={threads}", f"--max-concurrent-requests={CLIENTS[-1]}"]
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(shape, Path(folder))
        model = load_bundle(bundle.folder).model
        with (
            server(bundle.folder, Path(folder) / "log", 120.0, options) as url,
            httpx.Client(base_url=url, timeout=120.0, trust_env=False) as client,
        ):
            _serve(client, prompt, tokens, CLIENTS[-1])  # warm up, and open the connections
            rounds = [
                (
                    _plain(model, prompt, tokens),
                    _serve(client, prompt, tokens, clients=1),
                    *(_serve(client, prompt, tokens, clients) for clients in CLIENTS),
                )
                for _ in range(ROUNDS)
            ]
    plain, one, *many = (_median(list(column)) for column in zip(*rounds, strict=True))
    return [
        f"{bundle.metrics['parameters'] / 1e6:.1f} M",
        f"{1 / plain.seconds_per_token:.0f}",
        f"{1 / one.seconds_per_token:.0f}",
        *(f"{1 / cost.seconds_per_token:.0f} ({one.seconds_per_token / cost.seconds_per_token:.1f}x)" for cost in many),
        f"{one.seconds_per_token / plain.seconds_per_token - 1:.0%}",
        f"{one.cpu_seconds_per_token / plain.cpu_seconds_per_token - 1:.0%}",
        f"{1e3 * one.first_token_seconds:.1f}",
        *(f"{1e3 * cost.first_token_seconds:.1f}" for cost in many),
    ]


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*map(astuple, costs), strict=True)))


def _bundle(shape: ModelConfig, folder: Path) -> Artifact:
    """A bundle of random weights. The special tokens get logit 0, so that greedy answers have full length."""
    torch.manual_seed(0)
    letters = random.Random(0)
    words = ["".join(letters.choices(string.ascii_lowercase, k=6)) for _ in range(2_000)] * 2
    tokenizer = train_tokenizer([" ".join(words)], VOCAB_SIZE)
    model = Transformer(shape, VOCAB_SIZE)
    with torch.no_grad():
        model.embedding.weight[:5] = 0.0
    pretrain, prepare, assess = (Run.local(folder / name, name) for name in ("pretrain", "prepare", "assess"))
    model_folder = pretrain.folder / TrainedModel.MODEL
    save_tokenizer(tokenizer, model_folder)
    save_model(model, model_folder, SpecialTokens.read(model_folder))
    return bundle_stage.stage(
        Run.local(folder / "bundle", "bundle"),
        BundleStageConfig(),
        delegated=pretrain.seal({"tokens": 0.0}, view=TrainedModel),
        prepared=prepare.seal({}, view=PreparedData),
        assessment=assess.seal({}, view=Scores),
    )


def _plain(model: Transformer, prompt: list[int], tokens: int) -> Cost:
    """The same tokens without a server."""
    sampling = Sampling(temperature=0.0, max_tokens=tokens)
    started, started_cpu = time.perf_counter(), time.process_time()
    steps = generate(model, prompt, sampling)
    next(steps)
    first = time.perf_counter() - started
    written = 1 + sum(1 for _ in steps)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    return Cost(seconds / written, cpu_seconds / written, first)


def _serve(client: httpx.Client, prompt: list[int], tokens: int, clients: int) -> Cost:
    """The same answer, streamed to ``clients`` at once; seconds per token of all of them together."""
    started, started_cpu = time.perf_counter(), _cpu_seconds(client)
    with ThreadPoolExecutor(clients) as threads:
        answers = list(threads.map(lambda _: _ask(client, prompt, tokens), range(clients)))
    seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds(client) - started_cpu
    written = sum(count for _, count in answers)
    return Cost(seconds / written, cpu_seconds / written, statistics.median(first for first, _ in answers))


def _cpu_seconds(client: httpx.Client) -> float:
    """CPU time of the server process so far."""
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("process_cpu_seconds_total ")).split()[1])


def _ask(client: httpx.Client, prompt: list[int], tokens: int) -> tuple[float, int]:
    """Stream one answer; seconds to the first token, and tokens written."""
    body = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        events = (line for line in answer.iter_lines() if line.startswith("data: {"))
        next(events)
        first = time.perf_counter() - started
        last = deque(events, maxlen=1)
    return first, int(json.loads(last[0].removeprefix("data: "))["usage"]["completion_tokens"])


if __name__ == "__main__":
    main()
