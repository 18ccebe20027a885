"""Adapters against training all weights, on conversations. ``python -m benchmarks.adapters [KIND ...]``.

The base is a model of the closed world, as ``make run`` trains it; it is tuned with ``finetune=chat``, with the same
steps and seeds for both sides. Measured for each kind: its share of the gain in loss (of the assistant's tokens, in the
test split) that full tuning brings, the memory of the optimizer's state, and tokens per second, in turns with full
tuning. The learning rates are peaks; those that suit each side best were chosen on the validation split, with seed 3.
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

from benchmarks.results import Result, add_record_option, given_command, record
from benchmarks.training import interleaved, plain_step
from components import pretrain
from components.core.artifact import LOCAL
from components.core.identity import RecordedIdentity
from components.core.run import Run
from components.data import prepare
from components.data.chats.artifact import Chats
from components.data.chats.columns import LEARNT
from components.data.chats.config import ChatsConfig
from components.data.config import DataConfig
from components.data.prepared import PreparedData
from components.finetune.adapting import adapting
from components.finetune.chat import prepare as prepare_chats
from components.finetune.chat import train as train_chat
from components.finetune.chat.config import ChatTrainConfig
from components.finetune.config import FinetuneConfig
from components.model.adapters.config import AdapterConfig, Kind
from components.model.transformer import Transformer
from components.training.config import PretrainConfig, TrainerConfig
from components.training.loader import Batch, TokenColumns, TrainingBatches, ValidationBatches, training_order
from components.training.module import TrainingModule
from components.training.objectives.base import ForwardPass, Ranks
from components.training.objectives.masked import Masked
from components.training.objectives.next_token import NextToken
from components.training.optimizer import optimizer, trained
from components.training.precision import chosen_precision
from components.training.threads import set_threads
from components.training.trained import TrainedModel

GAIN_GOAL, MEMORY_GOAL, SPEED_GOAL = 0.9, 0.1, ">= 1 x"
SPEED_ROUNDS = 21
FULL = AdapterConfig()
NOTHING_LEARNT = 1e-12
"""A learning rate at which the model stays as it is."""


def main() -> None:
    """Tune with every kind and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=["lora"], metavar="KIND", help=", ".join(get_args(Kind)[1:]))
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-2, help="of adapters")
    parser.add_argument("--full-rate", type=float, default=3e-3, help="of all weights")
    parser.add_argument("--steps", type=int, default=FinetuneConfig().training.max_steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", type=Path, help="artifact of pretrain; trained here by default")
    parser.add_argument("--prepared", type=Path, help="artifact of prepare that the base learnt from")
    add_record_option(parser)
    given = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        tuning = Tuning.made(Path(folder), given.base, given.prepared, given.steps)
        for result in tuning.results(given.kinds, given.rank, given.rate, given.full_rate, given.seeds):
            print(result, file=sys.stderr, flush=True)
            results.append(result)
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
    """A trained model and conversations about what it has read."""

    folder: Path
    base: TrainedModel
    chats: Chats
    trainer: TrainerConfig

    @classmethod
    def made(cls, folder: Path, base: Path | None, prepared: Path | None, steps: int) -> "Tuning":
        """Of artifacts, or with the defaults of ``make run``."""
        data = PreparedData.open(prepared) if prepared else _prepared(folder / "prepare")
        model = TrainedModel.open(base) if base else _pretrained(folder / "pretrain", data)
        replay = FinetuneConfig().replay
        chats = prepare_chats.stage(Run.local(folder / "chats"), ChatsConfig(replay=replay), prepared=data)
        trainer = FinetuneConfig().training
        settings = {"max_steps": steps, "validate_every_steps": steps, "validation_batches": 64}
        return cls(folder, model, chats, trainer.model_copy(update=settings))

    def results(
        self, kinds: Sequence[Kind], rank: int, rate: float, full_rate: float, seeds: Sequence[int]
    ) -> Iterator[Result]:
        """Gain, memory and speed of every kind against full tuning."""
        before = self.loss(FULL, NOTHING_LEARNT, 0, steps=1)
        full = [self.loss(FULL, full_rate, seed) for seed in seeds]
        remark = f"peak rate {full_rate:g}; seeds {' '.join(map(str, seeds))}"
        yield Result("loss of held-out answers, base and fully tuned", f"{before:.3f}, {mean(full):.3f}", "", remark)
        for kind in kinds:
            adapter = AdapterConfig(kind=kind, rank=rank)
            tuned = [self.loss(adapter, rate, seed) for seed in seeds]
            shares = [(before - loss) / (before - whole) for loss, whole in zip(tuned, full, strict=True)]
            seen = f"{' '.join(f'{share:.1%}' for share in shares)}; loss {mean(tuned):.3f}, peak rate {rate:g}"
            yield Result(f"{kind}: share of full tuning's gain", f"{mean(shares):.1%}", f">= {GAIN_GOAL:.0%}", seen)
            yield from self.costs(adapter)

    def loss(self, adapter: AdapterConfig, rate: float, seed: int, steps: int | None = None) -> float:
        """Loss of the assistant's tokens in the test split after training, in nats per token."""
        settings = {"learning_rate": rate, "seed": seed, "max_steps": steps or self.trainer.max_steps}
        trainer = self.trainer.model_copy(update=settings)
        config = ChatTrainConfig(trainer=trainer, adapter=adapter)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            tuned = train_chat.stage(Run.local(Path(folder)), config, base=self.base, chats=self.chats)
            return self.held_out_loss(tuned.load())

    @torch.inference_mode()
    def held_out_loss(self, model: Transformer) -> float:
        """In fp32."""
        shards, objective = self.chats.shards(), Masked(NextToken(), LEARNT)
        split, size = shards.splits["test"], self.trainer.batch_size
        module = TrainingModule(model.eval(), self.trainer, objective)
        batches = ValidationBatches(
            split, model.config.context_length, shards.boundary_id, size, split.n_tokens, columns=self.columns
        )
        for batch in batches:
            objective.validate(batch, module.outputs(batch), ForwardPass(-1, 0, Ranks()))
        return objective.validation_metrics(Ranks())["validation_loss"]

    def costs(self, adapter: AdapterConfig) -> Iterator[Result]:
        """What the optimizer keeps, and how fast steps are."""
        models = {"full": self.base.load(), "adapter": self.base.load()}
        adapting(models["adapter"], adapter, self.chats.tokenizer_folder)
        weights = {name: sum(weight.numel() for weight in trained(model)) for name, model in models.items()}
        set_threads(self.trainer)
        optimizers, times = {}, {}
        for precision in dict.fromkeys(("32-true", chosen_precision("auto", torch.device("cpu")))):
            steps = {}
            for name, model in models.items():
                steps[name], optimizers[name] = self.step(model, precision)
            times[precision] = interleaved(steps, rounds=SPEED_ROUNDS)
        bytes_kept = {name: state_bytes(chosen) for name, chosen in optimizers.items()}
        yield Result(
            f"{adapter.kind}: optimizer state / full tuning's",
            f"{bytes_kept['adapter'] / bytes_kept['full']:.1%}",
            f"<= {MEMORY_GOAL:.0%}",
            f"{bytes_kept['adapter']:,} of {bytes_kept['full']:,} bytes; {weights['adapter']:,} weights are trained, "
            f"{weights['adapter'] / weights['full']:.1%}",
        )
        for precision, seconds in times.items():
            speed = self.trainer.batch_size * models["full"].config.context_length / seconds["adapter"]
            words = f"{adapter.kind}: tokens/s / full tuning's, {precision}"
            remark = f"{speed:,.0f} tokens/s, {torch.get_num_threads()} thread(s)"
            yield Result(words, f"{seconds['full'] / seconds['adapter']:.2f} x", SPEED_GOAL, remark)

    def step(self, model: Transformer, precision: str) -> tuple[Callable[[], object], torch.optim.Optimizer]:
        """An optimizer step, as often as one likes, and its optimizer."""
        module = TrainingModule(model, self.trainer, Masked(NextToken(), LEARNT))
        chosen, batches = optimizer(module, self.trainer), self.batches(model.config.context_length)
        return plain_step(module, chosen, precision, partial(next, batches)), chosen

    @property
    def columns(self) -> TokenColumns:
        """Which tokens are learnt."""
        return {LEARNT: self.chats.columns[LEARNT]}

    def batches(self, length: int) -> Iterator[Batch]:
        """Training batches of conversations."""
        shards, size = self.chats.shards(), self.trainer.batch_size
        split = shards.splits["train"]
        order = training_order(split, length, size, size, seed=0, ranks=1)
        return iter(TrainingBatches(split, order, length, shards.boundary_id, 0, 0, 1000, self.columns))


def state_bytes(chosen: torch.optim.Optimizer) -> int:
    """Bytes that an optimizer keeps from step to step."""
    return sum(value.nbytes for state in chosen.state.values() for value in state.values())


def _prepared(folder: Path) -> PreparedData:
    """With its configuration on record, which says to the conversations what world this is."""
    config = DataConfig()
    made_by = RecordedIdentity(
        stage=LOCAL, key="0" * 32, config=config.model_dump(mode="json"), inputs={}, code={}, environment={}
    )
    return prepare.stage(Run.recorded(folder, made_by), config)


def _pretrained(folder: Path, data: PreparedData) -> TrainedModel:
    return pretrain.stage(Run.local(folder), PretrainConfig(), prepared=data)


if __name__ == "__main__":
    main()
