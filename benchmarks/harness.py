"""BLiMP with our model, and beside lm-eval's Hugging Face backend. ``python -m benchmarks.harness DATA --text FILE``.

``DATA`` is a folder with ``blimp/blimp.jsonl.gz``. The model has a preset's size, random weights and a vocabulary of
32,768 learnt from ``FILE``; it is exported, and lm-eval's ``HFLM`` reads the export. Both answer the same requests in
turns: whole paradigms, so that we share what a full run shares. HFLM has the best of several batch sizes, found
beforehand on some of the requests. The whole of BLiMP is then run once through the harness, from reading the data to
rows of the table. HFLM needs the package ``accelerate``, which nothing else does: install it by hand. Times are wall
time and, because other load on the machine disturbs that, CPU time of the process.
Options: ``--model 10m --paradigms 4 --threads 2``.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.results import Result, add_record_option, given_command, record
from components.cascade.calibration import NEVER_CALLS
from components.cascade.config import CascadeConfig
from components.data.tokenizer import TextTokenizer, save_tokenizer, train_tokenizer
from components.evaluation.gate.served import ServedModel
from components.evaluation.harness.adapter import HarnessModel
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.harness.loading import LoadedTask
from components.evaluation.harness.suite import pieces, plan
from components.evaluation.text_models.ours import LacewingModel
from components.model.checkpoint import save_model
from components.model.config import ModelConfig
from components.model.transformer import Transformer

VOCAB_SIZE = 32_768
PRESETS = Path(__file__).parents[1] / "conf" / "model"
BATCH_SIZES = (4, 8, 16, 32, 64, 128)
ROUNDS = 3
Timed = tuple[float, float]
Answers = list[tuple[float, bool]]


def main() -> None:
    """Compare both backends, then run all of BLiMP."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness", description=__doc__)
    parser.add_argument("data", help="folder that holds blimp/blimp.jsonl.gz")
    parser.add_argument("--text", required=True, help="JSON Lines with a field text, compressed by gzip")
    parser.add_argument("--model", default="10m", help="preset of the model")
    parser.add_argument("--paradigms", type=int, default=4, help="paradigms in the comparison")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    add_record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = HarnessConfig(data=options.data)
    with tempfile.TemporaryDirectory() as name:
        ours = _model(options, Path(name))
        results = [*_compared(ours, Path(name), plan(["blimp"], config).tasks, options), _whole(ours, config, options)]
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for result in results:
        print(f"{result.what}: {result.measured} {result.goal} {result.remark}")
    if options.record:
        record("harness", results, given_command("benchmarks.harness"))


def _model(options: argparse.Namespace, folder: Path) -> LacewingModel:
    """A model with random weights, also written to ``folder``."""
    with gzip.open(options.text, "rt", encoding="utf-8") as lines:
        save_tokenizer(train_tokenizer((json.loads(line)["text"] for line in lines), VOCAB_SIZE), folder)
    tokenizer = TextTokenizer.load(folder)
    torch.manual_seed(0)
    shape = ModelConfig(**yaml.safe_load((PRESETS / f"{options.model}.yaml").read_text()))
    network = Transformer(shape, VOCAB_SIZE).eval()
    with torch.no_grad():
        # At their initial size random weights say the same of all sentences; at twice the size they decide.
        for parameter in network.parameters():
            parameter.mul_(2.0 if parameter.ndim == 2 else 1.0)
    save_model(network, folder, tokenizer.special)
    served = ServedModel(network, tokenizer, None, NEVER_CALLS, CascadeConfig(budget=0.0))
    return LacewingModel(options.model, "random", served)


def _compared(
    ours: LacewingModel, folder: Path, tasks: Sequence[LoadedTask], options: argparse.Namespace
) -> Iterator[Result]:
    chosen = tasks[:: max(1, len(tasks) // options.paradigms)][: options.paradigms]
    requests = [request for task in chosen for request in _requests(task)]
    theirs = _hugging_face(folder, ours.context_length)
    best = _best_batch_size(theirs, requests[:: len(chosen)][:400])
    theirs.batch_size_per_gpu = best
    mine, other = HarnessModel(ours), theirs.loglikelihood
    mine.loglikelihood(requests[:50])
    rounds = []
    for _ in range(ROUNDS):
        (mine_time, mine_said), (their_time, their_said) = _timed(mine.loglikelihood, requests), _timed(other, requests)
        rounds.append((mine_time, their_time))
    again = replace(ours, batch_tokens=500)
    same = HarnessModel(again).loglikelihood(requests) == mine_said
    wall, cpu = (statistics.median(theirs[kind] / mine[kind] for mine, theirs in rounds) for kind in (0, 1))
    what = f"{options.model}, {len(requests):,} sentences of {len(chosen)} paradigms, {options.threads} thread(s)"
    seconds = [statistics.median(times[who][kind] for times in rounds) for who in (0, 1) for kind in (0, 1)]
    yield Result(
        f"log-likelihoods as fast as lm-eval's HFLM at its best batch size ({best}); {what}",
        f"{wall:.2f} x wall, {cpu:.2f} x CPU",
        ">= 3 x",
        "wall / CPU s: ours {:.1f} / {:.1f}, HFLM {:.1f} / {:.1f}".format(*seconds),
    )
    # HFLM has <CALL> in its softmax: its log P is lower by -log(1 - P(CALL)) for every token, which is P(CALL) nearly.
    call = np.array([mine.said[id(request)].call_mass for request in requests])  # type: ignore[union-attr]
    yield _equality(np.array(mine_said)[:, 0] - call, np.array(their_said)[:, 0], same)


def _equality(mine: Any, theirs: Any, same: bool) -> Result:
    """How far both are apart, and whether they decide alike."""
    gap = float(np.abs(mine - theirs).max())
    margins, their_margins = mine[::2] - mine[1::2], theirs[::2] - theirs[1::2]
    clear = np.abs(their_margins) > 2e-4
    alike = bool((np.sign(margins[clear]) == np.sign(their_margins[clear])).all())
    return Result(
        "difference of log-likelihoods, at most",
        f"{gap:.1e} nats",
        "<= 1e-4 nats",
        f"decisions {'equal' if alike else 'DIFFER'} on {clear.sum():,} of {len(clear):,} pairs with a margin; ours "
        f"{'have the same bits' if same else 'DIFFER'} with batches of 500 tokens",
    )


def _whole(ours: LacewingModel, config: HarnessConfig, options: argparse.Namespace) -> Result:
    """All of BLiMP through the harness."""
    (wall, cpu), rows = _timed(
        lambda model: [row for piece in pieces(model, ["blimp"], config).values() for row in piece()], ours
    )
    pairs = sum(row.metric == "acc" for row in rows)
    return Result(
        f"BLiMP, {pairs:,} pairs, from files to rows, {options.model}, {options.threads} thread(s)",
        f"{wall / 60:.1f} min",
        "<= 10 min",
        f"{cpu / 60:.1f} min of CPU",
    )


def _requests(task: LoadedTask) -> list[Any]:
    made = []
    for number, example in enumerate(task.rows):
        context = task.task.fewshot_context(example, num_fewshot=0)
        made += task.task.construct_requests(doc=example, ctx=context, metadata=(task.name, number, 1))
    return made


def _hugging_face(folder: Path, context_length: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=8, max_length=context_length)


def _best_batch_size(theirs: Any, requests: Sequence[Any]) -> int:
    """The batch size at which HFLM takes least CPU time."""
    times = {}
    for size in BATCH_SIZES:
        theirs.batch_size_per_gpu = size
        times[size] = min(_timed(theirs.loglikelihood, list(requests))[0][1] for _ in range(2))
    print("HFLM, CPU s by batch size: " + ", ".join(f"{size}: {seconds:.1f}" for size, seconds in times.items()))
    return min(times, key=lambda size: times[size])


def _timed(function: Callable[[Any], Any], argument: Any) -> tuple[Timed, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(argument)
    return (time.perf_counter() - wall, time.process_time() - cpu), result


if __name__ == "__main__":
    main()
