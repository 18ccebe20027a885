"""What a cascade costs beside its helper alone. ``python -m benchmarks.cascade``.

Milliseconds per token of the small model, of each helper and of both together, the time of one call, and the tokens per
second that the cascade writes for 1, 4 and 16 requests at once. Times are wall time and, because other load on the
machine disturbs that, CPU time of the process. The weights are random at the presets' sizes, so the text is noise and
P(CALL) says nothing: calls are forced at even distances. Only whole words of the vocabulary can be written, so that
replies are text and every word is one token. (A call for a word then takes two passes of the helper: the second shows
that the word has ended.) All numbers are medians of interleaved rounds.
Options: ``--small 10m --helpers 30m,124m --budget 0.15 --units token,word --tokens 128 --threads 1``.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import os
import random
import statistics
import string
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.results import Result, add_record_option, given_command, record
from components.cascade.calibration import LEVELS, CallCalibration
from components.cascade.config import CascadeConfig
from components.cascade.decoding import Cascade, CascadeAnswer, CascadeDecoding, CascadeRequest
from components.cascade.helpers.base import Call, HelperError, Reply
from components.cascade.helpers.model import ModelHelper
from components.data.tokenizer import TextTokenizer, train_tokenizer
from components.model.config import ModelConfig
from components.model.generate import Sampling, generate
from components.model.transformer import Transformer

VOCAB_SIZE = 32_768
PRESETS = Path(__file__).parents[1] / "conf" / "model"
BATCHES = (1, 4, 16)
GOALS = {"124m": ">= 2 x"}


@dataclass(frozen=True)
class Cost:
    """Of one action, in seconds."""

    wall: float
    cpu: float


class Timed(ModelHelper):
    """Notes what every batch of calls costs."""

    costs: list[Cost]

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        replies: list[Reply | HelperError] = []
        self.costs.append(_cost(lambda: replies.extend(super(Timed, self).answer(calls))))
        return replies


class EvenlyCalled:
    """A call as soon as the budget has room for one."""

    def __init__(self, budget: float) -> None:
        self.budget, self.due = budget, 0.5

    def wants(self, score: float) -> bool:
        return self.due + self.budget >= 1.0

    def record(self, score: float, called: bool) -> None:
        self.due += self.budget - called


class Forced(Cascade):
    """Calls at even distances, whatever the scores."""

    def decoding(self) -> CascadeDecoding:
        decoding = super().decoding()
        decoding._rule = EvenlyCalled  # type: ignore[method-assign, assignment]
        return decoding


def main() -> None:
    """Measure every helper and unit, and print two tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade", description=__doc__)
    parser.add_argument("--small", default="10m", help="preset of the small model")
    parser.add_argument("--helpers", default="30m,124m", help="presets of the larger models")
    parser.add_argument("--units", default="token,word", help="what a call returns")
    parser.add_argument("--budget", type=float, default=0.15, help="share of the decisions that call")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of every answer")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="tokens of every prompt")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the forward pass")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    add_record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = _tokenizer()
    small = _model(options.small, tokenizer)
    what = f"small {options.small}, {options.prompt_tokens} + {options.tokens} tokens, {options.threads} thread(s)"
    speed = Table(title=f"a cascade beside its helper, one request: {what}, calls {options.budget:.0%} of decisions")
    for column in ("helper", "unit", "small ms/token", "helper", "cascade", "faster than helper, wall", "CPU"):
        speed.add_column(column, justify="right")
    for column in ("calls/decisions", "helper's tokens", "call ms, median", "95 %", "median CPU"):
        speed.add_column(column, justify="right")
    batched = Table(title=f"cascade, tokens of all requests together a second, wall / CPU: {what}")
    for column in ("helper", "unit", *(f"{batch} at once" for batch in BATCHES)):
        batched.add_column(column, justify="right")
    results: list[Result] = []
    for name in options.helpers.split(","):
        helper = Timed(_model(name, tokenizer), tokenizer, same_tokenizer=True)
        for unit in options.units.split(","):
            config = CascadeConfig(budget=options.budget, unit=cast(Any, unit))
            cascade = Forced(small, tokenizer, helper, _calibration(), config)
            alone, together = _beside_helper(cascade, helper, options), _together(cascade, helper, options)
            speed.add_row(name, unit, *alone)
            batched.add_row(name, unit, *together)
            results += _results(options, name, unit, alone, together)
    console = Console(width=180)
    console.print(speed)
    console.print(batched)
    console.print(f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if options.record:
        record("cascade", results, given_command("benchmarks.cascade"))


def _results(
    options: argparse.Namespace, helper: str, unit: str, alone: list[str], together: list[str]
) -> Iterator[Result]:
    """The rows of one helper and unit for ``docs/results.md``."""
    small, large, both, wall, cpu, _, _, call, call_95, _ = alone
    pair = f"{options.small} asking {helper} for one {unit} at {options.budget:.0%} calls"
    milliseconds = f"small {small}, helper {large}, cascade {both} ms per token"
    yield Result(f"{pair}, against the helper alone", f"{wall} (CPU time {cpu})", GOALS.get(helper, ""), milliseconds)
    goal = "<= 30 ms" if (helper, unit) == ("30m", "token") else ""
    yield Result(f"one call to {helper} for one {unit}", f"{call} ms", goal, f"95 % of the calls within {call_95} ms")
    rates = ", ".join(rate.split(" / ")[0] for rate in together)
    yield Result(f"{pair}: {', '.join(map(str, BATCHES))} requests at once", f"{rates} tokens/s")


def _beside_helper(cascade: Cascade, helper: Timed, options: argparse.Namespace) -> list[str]:
    """Small model, helper and cascade in turns, with one request."""
    prompt = _prompts(1, options.prompt_tokens)[0]
    sampling = Sampling(temperature=0.0, max_tokens=options.tokens, suppress_ids=frozenset({cascade.tokenizer.call_id}))
    helper.costs = []
    cascade.answers([CascadeRequest(prompt[:5], sampling)])  # warm up
    warm = len(helper.costs)
    rounds: list[tuple[Cost, Cost, Cost]] = []
    answers: list[CascadeAnswer] = []
    for _ in range(options.rounds):
        rounds.append(
            (
                _cost(lambda: deque(generate(cascade.model, prompt, sampling), maxlen=0)),
                _cost(lambda: deque(generate(helper._model, prompt, sampling), maxlen=0)),
                _cost(lambda: answers.extend(cascade.answers([CascadeRequest(prompt, sampling)]))),
            )
        )
    _check(answers)
    summary = answers[0].summary
    calls = sorted(1e3 * cost.wall for cost in helper.costs[warm:])
    return [
        *(
            f"{1e3 * statistics.median(cost.wall for cost in costs) / options.tokens:.2f}"
            for costs in zip(*rounds, strict=True)
        ),
        f"{statistics.median(large.wall / both.wall for _, large, both in rounds):.2f}x",
        f"{statistics.median(large.cpu / both.cpu for _, large, both in rounds):.2f}x",
        f"{summary.calls}/{summary.decisions}",
        f"{summary.helper_tokens / (summary.helper_tokens + summary.small_tokens):.0%}",
        f"{statistics.median(calls):.1f}",
        f"{calls[int(0.95 * len(calls))]:.1f}",
        f"{1e3 * statistics.median(cost.cpu for cost in helper.costs[warm:]):.1f}",
    ]


def _together(cascade: Cascade, helper: Timed, options: argparse.Namespace) -> list[str]:
    """Tokens a second of wall and of CPU time, for batches of several sizes in turns."""
    sampling = Sampling(temperature=0.0, max_tokens=options.tokens)
    rates: dict[int, list[Cost]] = {batch: [] for batch in BATCHES}
    for _ in range(options.rounds):
        for batch in BATCHES:
            requests = [CascadeRequest(prompt, sampling) for prompt in _prompts(batch, options.prompt_tokens)]
            answers: list[CascadeAnswer] = []
            cost = _cost(partial(_answer, cascade, requests, answers))
            tokens = sum(len(answer.ids) for answer in answers)
            rates[batch].append(Cost(tokens / cost.wall, tokens / cost.cpu))
    return [
        f"{statistics.median(rate.wall for rate in rates[batch]):.0f} / "
        f"{statistics.median(rate.cpu for rate in rates[batch]):.0f}"
        for batch in BATCHES
    ]


def _answer(cascade: Cascade, requests: Sequence[CascadeRequest], into: list[CascadeAnswer]) -> None:
    into += cascade.answers(requests)


def _cost(action: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def _check(answers: Sequence[CascadeAnswer]) -> None:
    """Failed calls would be cheap, so a number with them would flatter."""
    failed = sum(answer.summary.failed_calls + answer.summary.empty_calls for answer in answers)
    if failed:
        raise SystemExit(f"{failed} calls brought no reply, the measurement would mean nothing")


def _tokenizer() -> TextTokenizer:
    letters = random.Random(0)
    words = ["".join(letters.choices(string.ascii_lowercase, k=letters.randint(2, 9))) for _ in range(40_000)]
    return TextTokenizer(train_tokenizer([" ".join(words)] * 2, VOCAB_SIZE))


def _model(preset: str, tokenizer: TextTokenizer) -> Transformer:
    torch.manual_seed(0)
    shape = ModelConfig.model_validate(yaml.safe_load((PRESETS / f"{preset}.yaml").read_text()) or {})
    model = Transformer(shape, tokenizer.vocab_size).eval()
    words = {id for id in range(tokenizer.vocab_size) if tokenizer.token_bytes(id)[1:].isalpha()}
    spoken = {id for id in words if tokenizer.token_bytes(id).startswith(b" ")}
    with torch.no_grad():
        model.embedding.weight[[id for id in range(tokenizer.vocab_size) if id not in spoken]] = 0.0
    return model


def _prompts(count: int, tokens: int) -> list[list[int]]:
    chance = random.Random(0)
    return [[0, *(chance.randrange(300, VOCAB_SIZE) for _ in range(tokens - 1))] for _ in range(count)]


def _calibration() -> CallCalibration:
    """Never asked: the calls are forced."""
    return CallCalibration(quantiles=[0.0] * LEVELS, tokens=1, factual=True)


if __name__ == "__main__":
    main()
