"""What delegation costs a training step. ``python -m benchmarks.delegation``.

The whole step (forward, backward, clip, AdamW) of a model that delegates, against the same step with plain
cross-entropy, on the same batch, in one process and in turns. The numbers are medians of the ratios of neighbouring
steps, in processor time, because wall time on a shared machine includes what others took. ``--preset`` takes a model of
``conf/model``.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import time
from statistics import median

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.results import Result, add_record_option, given_command, record
from benchmarks.training import MODELS, Step, random_batch
from components.delegation import columns
from components.delegation.config import DelegationConfig
from components.delegation.objective import Delegation
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import TrainerConfig
from components.training.loader import Batch
from components.training.module import TrainingModule
from components.training.objectives.base import ForwardPass, Objective, Ranks
from components.training.objectives.next_token import NextToken
from components.training.optimizer import adamw
from components.training.precision import chosen_precision
from components.training.threads import set_threads

FACTUAL = 0.25
GOAL = 1.03
SELECTIONS = ("ntp", "lacy", "loss", "random")


def main() -> None:
    """Measure the selections that need no other model, in both normalisations, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="quick", choices=sorted(path.stem for path in MODELS.glob("*.yaml")))
    parser.add_argument("--precision", default="auto", choices=("auto", "32-true", "bf16-mixed"))
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=25)
    add_record_option(parser)
    arguments = parser.parse_args()
    config = ModelConfig.model_validate(yaml.safe_load((MODELS / f"{arguments.preset}.yaml").read_text()))
    threads = set_threads(TrainerConfig(threads=1))
    precision = chosen_precision(arguments.precision, torch.device("cpu"))
    batch = labelled_batch(config, arguments.vocab_size)

    table = Table(title=f"delegation, {config.name}, CPU, {threads} thread, {precision}, torch {torch.__version__}")
    for column in ("selection", "normalisation", "step / plain step", "goal", "plain step"):
        table.add_column(column, justify="left" if column in ("selection", "normalisation") else "right")
    results = []
    for selection in SELECTIONS:
        for normalisation in ("full", "exclude_call"):
            delegation = DelegationConfig.model_validate({"selection": selection, "normalisation": normalisation})
            plain, ours = (step(config, arguments.vocab_size, batch, precision, how) for how in (None, delegation))
            ratio, seconds = neighbours(plain, ours, arguments.rounds)
            row = f"{ratio:.3f}", f"<= {GOAL}", f"{seconds * 1e3:.0f} ms"
            table.add_row(selection, normalisation, *row)
            what = f"step with `{selection}`, `{normalisation}`, against a plain step"
            results.append(Result(what, f"{ratio:.2f} x", f"<= {GOAL} x", f"plain step {row[2]}, {precision}"))
    Console().print(table)
    if arguments.record:
        record("delegation", results, given_command("benchmarks.delegation"))


def labelled_batch(config: ModelConfig, vocab_size: int) -> Batch:
    """A random batch, a quarter of whose targets are factual."""
    batch = random_batch(config, vocab_size, rows=8)
    return batch._replace(columns={columns.FACTUAL: torch.rand(batch.targets.shape) < FACTUAL})


def step(
    config: ModelConfig, vocab_size: int, batch: Batch, precision: str, delegation: DelegationConfig | None
) -> Step:
    """One optimizer step as a plain function; ``delegation=None``: with plain cross-entropy."""
    settings = TrainerConfig()
    model = Transformer(config, vocab_size)
    optimizer = adamw(model, settings)
    objective: Objective = NextToken()
    if delegation is not None:
        objective = Delegation(delegation, settings, call_id=4, boundary_id=0)
    module = TrainingModule(model, settings, objective)
    after_warmup = ForwardPass(settings.max_steps, 0, Ranks())

    def loss() -> Tensor:
        losses, weights = objective.losses(batch, module.outputs(batch), after_warmup)
        return losses.sum() / weights.sum()

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip, foreach=True)
        optimizer.step()
        optimizer.zero_grad()

    return run


def neighbours(first: Step, second: Step, rounds: int) -> tuple[float, float]:
    """Median of second / first, and of the seconds of the first; in turns, after two rounds to warm up."""
    ratios, seconds = [], []
    for turn in range(-2, rounds):
        times = {}
        # Whoever comes second finds warm caches: take turns.
        for which in (first, second) if turn % 2 else (second, first):
            began = time.process_time()
            which()
            times[which] = time.process_time() - began
        if turn >= 0:
            ratios.append(times[second] / times[first])
            seconds.append(times[first])
    return median(ratios), median(seconds)


if __name__ == "__main__":
    main()
