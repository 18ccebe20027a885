"""Adapters against training all weights. ``python -m benchmarks.adapters [KIND ...]``.

The base is a model of the closed world, as ``make run`` trains it. It is tuned on other text, Python's own manual, with
the same tokenizer, the same steps and the same seeds. Measured for each kind: its share of the gain in validation loss
that full tuning brings, the memory of the optimizer's state, and tokens per second, in turns with full tuning. The
learning rates are peaks; give those that suit each side best.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.results import Result, add_record_option, given_command, record
from benchmarks.training import interleaved
from components import pretrain
from components.core.run import Run
from components.data import prepare
from components.data.config import DataConfig
from components.data.prepared import PreparedData
from components.data.shards import ShardSet, ShardWriter
from components.data.sources import pydoc_topics
from components.data.special_tokens import SpecialTokens
from components.data.split import position, split_of
from components.data.tokenizer import TextTokenizer
from components.model.adapters.adapter import adapted
from components.model.adapters.config import AdapterConfig, Kind
from components.model.adapters.files import write_and_merge
from components.model.transformer import Transformer
from components.training.config import PretrainConfig, TrainerConfig
from components.training.loader import Batch, TrainingBatches, training_order
from components.training.module import TrainingModule
from components.training.objectives.base import ForwardPass, Ranks
from components.training.objectives.next_token import NextToken
from components.training.optimizer import optimizer
from components.training.session import Session
from components.training.trained import TrainedModel

GAIN_GOAL, MEMORY_GOAL = 0.9, 0.1
FULL = AdapterConfig()


def main() -> None:
    """Tune with every kind and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=["lora"], choices=get_args(Kind)[1:], metavar="KIND")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-2, help="peak learning rate of adapters")
    parser.add_argument("--full-rate", type=float, default=5e-3, help="peak learning rate of all weights")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", type=Path, help="artifact of pretrain; trained here by default")
    parser.add_argument("--prepared", type=Path, help="artifact of prepare that the base learnt from")
    add_record_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tuning = Tuning.made(Path(folder), given.base, given.prepared, given.steps)
        results = list(tuning.results(given.kinds, given.rank, given.rate, given.full_rate, given.seeds))
    table = Table(title=f"adapters of rank {given.rank}, {given.steps} steps, torch {torch.__version__}")
    for column in ("what", "measured", "goal", "remark"):
        table.add_column(column)
    for result in results:
        table.add_row(result.what, result.measured, result.goal, result.remark)
    Console().print(table)
    if given.record:
        record("adapters", results, given_command("benchmarks.adapters"))


@dataclass(frozen=True)
class Tuning:
    """A trained model, and text of another kind in its vocabulary."""

    folder: Path
    base: TrainedModel
    prepared: PreparedData
    shards: ShardSet
    trainer: TrainerConfig

    @classmethod
    def made(cls, folder: Path, base: Path | None, prepared: Path | None, steps: int) -> "Tuning":
        """From artifacts, or from the defaults of ``make run``."""
        data = PreparedData.open(prepared) if prepared else prepare.stage(Run.local(folder / "prepare"), DataConfig())
        plain = (
            TrainedModel.open(base)
            if base
            else pretrain.stage(Run.local(folder / "pretrain"), PretrainConfig(), prepared=data)
        )
        trainer = TrainerConfig(max_steps=steps, validate_every_steps=steps, validation_batches=64)
        return cls(folder, plain, data, _manual(data, folder / "manual"), trainer)

    def results(
        self, kinds: Sequence[Kind], rank: int, rate: float, full_rate: float, seeds: Sequence[int]
    ) -> Iterator[Result]:
        """Gain, memory and speed of every kind against full tuning."""
        before = self.loss(FULL, 1e-12, 0)
        full = [self.loss(FULL, full_rate, seed) for seed in seeds]
        yield Result(
            "validation loss, base and fully tuned", f"{before:.3f}, {mean(full):.3f}", "", f"rate {full_rate:g}"
        )
        for kind in kinds:
            adapter = AdapterConfig(kind=kind, rank=rank)
            tuned = [self.loss(adapter, rate, seed) for seed in seeds]
            shares = [(before - loss) / (before - whole) for loss, whole in zip(tuned, full, strict=True)]
            seen = " ".join(f"{share:.1%}" for share in shares)
            yield Result(f"{kind}: share of full tuning's gain", f"{mean(shares):.1%}", f">= {GAIN_GOAL:.0%}", seen)
            yield from self.costs(adapter)

    def loss(self, adapter: AdapterConfig, rate: float, seed: int) -> float:
        """Validation loss after training, in nats per token."""
        trainer = self.trainer.model_copy(update={"learning_rate": rate, "seed": seed})
        model = self.base.load()
        config = PretrainConfig(model=model.config, trainer=trainer)
        session = Session.open(config)
        torch.manual_seed(seed)
        put_on = adapted(model, adapter, self.special)
        module = TrainingModule(model, trainer, NextToken())
        merge = partial(write_and_merge, put_on, special=self.special) if put_on is not None else _nothing
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            run = Run.local(Path(folder))
            tuned = session.train(run, config, self.prepared, self.shards, module, adapter.kind, merge_adapter=merge)
        print(f"{adapter.kind}, seed {seed}: {tuned.metrics['validation_loss']:.4f}", file=sys.stderr)
        return tuned.metrics["validation_loss"]

    def costs(self, adapter: AdapterConfig) -> Iterator[Result]:
        """What the optimizer keeps, and how fast steps are."""
        full, small = self.base.load(), self.base.load()
        adapted(small, adapter, self.special)
        share = sum(map(torch.numel, trained(small))) / sum(map(torch.numel, trained(full)))
        steps = {name: self.step(model) for name, model in (("full", full), ("adapter", small))}
        seconds = interleaved({name: step for name, (step, _) in steps.items()})
        sizes = {name: state_bytes(chosen) for name, (_, chosen) in steps.items()}
        yield Result(
            f"{adapter.kind}: optimizer state / full tuning's",
            f"{sizes['adapter'] / sizes['full']:.1%}",
            f"<= {MEMORY_GOAL:.0%}",
            f"{sizes['adapter']:,} of {sizes['full']:,} bytes; {share:.1%} of the weights",
        )
        tokens = self.trainer.batch_size * full.config.context_length
        yield Result(
            f"{adapter.kind}: tokens/s / full tuning's",
            f"{seconds['full'] / seconds['adapter']:.2f} x",
            "",
            f"{tokens / seconds['adapter']:,.0f} tokens/s",
        )

    def step(self, model: Transformer) -> tuple[Callable[[], object], torch.optim.Optimizer]:
        """An optimizer step, as often as one likes, and its optimizer."""
        module, batches = TrainingModule(model, self.trainer, NextToken()), self.batches(model.config.context_length)
        chosen = optimizer(module, self.trainer)

        def step() -> None:
            batch = next(batches)
            losses, weights = module.objective.losses(batch, module.outputs(batch), ForwardPass(0, 0, Ranks()))
            (losses.sum() / weights.sum()).backward()
            chosen.step()
            chosen.zero_grad()

        return step, chosen

    def batches(self, length: int) -> Iterator[Batch]:
        """Training batches of the other text."""
        split, size = self.shards.splits["train"], self.trainer.batch_size
        order = training_order(split, length, size, size, seed=0, ranks=1)
        return iter(TrainingBatches(split, order, length, self.shards.boundary_id, 0, 0, 1000))

    @property
    def special(self) -> SpecialTokens:
        """Of the tokenizer of both texts."""
        return SpecialTokens.read(self.prepared.tokenizer_folder)


def _manual(prepared: PreparedData, folder: Path) -> ShardSet:
    """Python's manual as shards in the vocabulary of ``prepared``; every tenth topic is for validation."""
    tokenizer = TextTokenizer.load(prepared.tokenizer_folder)
    with ShardWriter(folder, tokenizer.vocab_size, tokenizer.end_of_text_id, shard_tokens=2**24) as writer:
        for text in pydoc_topics().values():
            split = split_of(position(text.encode()), validation_fraction=0.1, test_fraction=0.01)
            writer.add(split, tokenizer.encode(text), len(text.encode()))
    return ShardSet.open(folder)


def trained(model: nn.Module) -> Iterator[Tensor]:
    """The weights that are not frozen."""
    return (weight for weight in model.parameters() if weight.requires_grad)


def state_bytes(chosen: torch.optim.Optimizer) -> int:
    """Bytes that an optimizer keeps from step to step."""
    return sum(value.nbytes for state in chosen.state.values() for value in state.values())


def _nothing(folder: Path) -> None:
    """What is merged when all weights were trained."""


if __name__ == "__main__":
    main()
