"""What the server costs and gives, on random weights of a preset's size. ``python -m benchmarks.serving``.

Tokens per second of plain generation, of the server with one client and with four, the time to the first token, and
the server's overhead over plain generation. Options: ``--threads 2 --tokens 128 --prompt-tokens 64``.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from rich.console import Console
from rich.table import Table

from components.core.artifact import Artifact
from components.core.run import Run
from components.data.tokenizer import save_tokenizer, train_tokenizer
from components.deployment import bundle as bundle_stage
from components.deployment.bundle import load_bundle
from components.deployment.config import BundleConfig
from components.deployment.smoke import server
from components.model.checkpoint import save_model
from components.model.config import ModelConfig
from components.model.generate import Sampling, generate
from components.model.transformer import Transformer

# The shape of ``model=quick``, and one ten times as large, where arithmetic outweighs bookkeeping.
SHAPES = (
    ModelConfig(),
    ModelConfig(name="12m", layers=8, width=384, hidden_width=1024, heads=6, kv_heads=2, context_length=512),
)
VOCAB_SIZE = 4096
CLIENTS = 4
REPEATS = 3


@dataclass(frozen=True)
class Timing:
    """One streamed answer."""

    first_token_seconds: float
    seconds: float
    tokens: int


def main() -> None:
    """Measure every shape and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the forward pass")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of every answer")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="tokens of every prompt")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"serving, {options.threads} thread(s), {options.prompt_tokens} + {options.tokens} tokens")
    for column in (
        "parameters",
        "plain tokens/s",
        "1 client tokens/s",
        "overhead",
        f"{CLIENTS} clients tokens/s",
        "first token ms, 1 client",
        f"first token ms, {CLIENTS} clients",
    ):
        table.add_column(column, justify="right")
    for shape in SHAPES:
        table.add_row(*_measure(shape, options.threads, options.tokens, options.prompt_tokens))
    Console(width=140).print(table)


def _measure(shape: ModelConfig, threads: int, tokens: int, prompt_tokens: int) -> list[str]:
    prompt = [5 + at % 300 for at in range(prompt_tokens)]
    with tempfile.TemporaryDirectory() as folder:
        bundle = _bundle(shape, Path(folder))
        plain = max(_plain_tokens_per_second(bundle, prompt, tokens) for _ in range(REPEATS))
        with (
            server(bundle.folder, Path(folder) / "log", 120.0, ["--name=b", f"--threads={threads}"]) as url,
            httpx.Client(base_url=url, timeout=120.0, trust_env=False) as client,
        ):
            _together(client, prompt, tokens, CLIENTS)  # warm up, and open the connections
            alone = [_together(client, prompt, tokens, 1) for _ in range(REPEATS)]
            crowd = [_together(client, prompt, tokens, CLIENTS) for _ in range(REPEATS)]
    one, many = max(rate for rate, _ in alone), max(rate for rate, _ in crowd)
    first = [1e3 * statistics.median(t.first_token_seconds for _, ts in runs for t in ts) for runs in (alone, crowd)]
    return [
        f"{bundle.metrics['parameters'] / 1e6:.1f} M",
        f"{plain:.0f}",
        f"{one:.0f}",
        f"{plain / one - 1:.0%}",
        f"{many:.0f}",
        f"{first[0]:.1f}",
        f"{first[1]:.1f}",
    ]


def _bundle(shape: ModelConfig, folder: Path) -> Artifact:
    """A bundle of random weights. The special tokens get logit 0, so that greedy answers have full length."""
    torch.manual_seed(0)
    letters = random.Random(0)
    words = ["".join(letters.choices(string.ascii_lowercase, k=6)) for _ in range(2_000)] * 2
    tokenizer = train_tokenizer([" ".join(words)], VOCAB_SIZE)
    model = Transformer(shape, VOCAB_SIZE)
    with torch.no_grad():
        model.embedding.weight[:5] = 0.0
    runs = [Run.local(folder / name, name) for name in ("pretrain", "prepare", "assess")]
    save_model(model, runs[0].folder / "model")
    save_tokenizer(tokenizer, runs[0].folder / "model")
    inputs = [run.seal({"tokens": 0.0}) for run in runs]
    return bundle_stage.stage(Run.local(folder / "bundle", "bundle"), BundleConfig(), *inputs)


def _plain_tokens_per_second(bundle: Artifact, prompt: list[int], tokens: int) -> float:
    model = load_bundle(bundle.folder).model
    sampling = Sampling(temperature=0.0, max_tokens=tokens)
    started = time.perf_counter()
    written = sum(1 for _ in generate(model, prompt, sampling))
    return written / (time.perf_counter() - started)


def _together(client: httpx.Client, prompt: list[int], tokens: int, clients: int) -> tuple[float, list[Timing]]:
    """Tokens per second of all ``clients`` together, and each one's times."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        timings = list(threads.map(lambda _: _ask(client, prompt, tokens), range(clients)))
    return sum(timing.tokens for timing in timings) / (time.perf_counter() - started), timings


def _ask(client: httpx.Client, prompt: list[int], tokens: int) -> Timing:
    """Stream one answer."""
    body = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    first = None
    usage = None
    with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - started
                usage = json.loads(line.removeprefix("data: "))["usage"]
    assert first is not None
    assert usage is not None
    return Timing(first, time.perf_counter() - started, usage["completion_tokens"])


if __name__ == "__main__":
    main()
