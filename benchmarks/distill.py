"""A student with a teacher against the same student alone, at equal time. ``python -m benchmarks.distill [STEPS ...]``.

The teacher is a model of the closed world, as ``make run`` trains it; the student has one layer of width 64 and starts
from scratch. ``STEPS`` are those of the student alone. Its rival gets as many as take the same CPU time, on one thread.
What the teacher adds to a step is measured first, in turns with plain steps and in one process, so that other load on
the machine disturbs both alike. A second rival pays for the teacher's one pass over the text too.
Bits per byte are those of the validation split, the seeds those of weights and order.
Give ``--base`` and ``--prepared`` for a teacher that is there already, and ``--teaching`` for what it has said.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import mean, median

import torch

from benchmarks.results import Result, add_record_option, given_command, record
from components import pretrain
from components.core.run import Run
from components.data import prepare
from components.data.config import DataConfig
from components.data.prepared import PreparedData
from components.finetune.distill import train as distill
from components.finetune.distill.artifact import Teaching
from components.finetune.distill.config import DistillObjectiveConfig, DistillStageConfig, TeachConfig
from components.finetune.distill.objective import Distillation
from components.finetune.distill.teach import stage as teach
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import PretrainConfig, TrainerConfig
from components.training.loader import TokenColumns, TrainingBatches, training_order
from components.training.module import TrainingModule
from components.training.objectives.base import ForwardPass, Objective, Ranks
from components.training.objectives.next_token import NextToken
from components.training.optimizer import optimizer
from components.training.precision import chosen_precision
from components.training.threads import set_threads
from components.training.trained import TrainedModel

STUDENT = ModelConfig(name="student", layers=1, width=64, hidden_width=256, heads=1, kv_heads=1)
TRAINER = TrainerConfig(threads=1, validate_every_steps=100_000, checkpoint_every_steps=100_000, validation_batches=64)
STEPS = (280, 700, 1400)
OVERHEAD_GOAL = 1.05
ROUNDS = 60


def main() -> None:
    """Measure the cost of a step, then train both students for every number of steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", type=int, default=STEPS, metavar="STEPS", help="of the student alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--top-k", type=int, default=TeachConfig().top_k)
    parser.add_argument("--base", type=Path, help="artifact of pretrain, the teacher; trained here by default")
    parser.add_argument("--prepared", type=Path, help="artifact of prepare that the base learnt from")
    for name, field in DistillObjectiveConfig.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=field.default, type=type(field.default))
    add_record_option(parser)
    given = parser.parse_args()
    objective = DistillObjectiveConfig(**{name: getattr(given, name) for name in DistillObjectiveConfig.model_fields})
    set_threads(TRAINER)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        race = Race.made(Path(folder), given.base, given.prepared, given.top_k, objective)
        for result in race.results(sorted(given.steps), given.seeds):
            print(f"{result.what}: {result.measured} {result.goal} {result.remark}", file=sys.stderr, flush=True)
            results.append(result)
    if given.record:
        record("distill", results, given_command("benchmarks.distill"))


@dataclass(frozen=True)
class Race:
    """A text, what a teacher says of it, and what is to be learnt from that."""

    folder: Path
    prepared: PreparedData
    teaching: Teaching
    teaching_seconds: float
    """CPU time of the teacher's pass."""
    objective: DistillObjectiveConfig

    @classmethod
    def made(
        cls, folder: Path, base: Path | None, prepared: Path | None, top_k: int, objective: DistillObjectiveConfig
    ) -> "Race":
        """Of artifacts, or with the defaults of ``make run``."""
        data = PreparedData.open(prepared) if prepared else prepare.stage(Run.local(folder / "prepare"), DataConfig())
        plan = PretrainConfig(trainer=TrainerConfig(threads=1))
        model = TrainedModel.open(base) if base else pretrain.stage(Run.local(folder / "base"), plan, prepared=data)
        asked = TeachConfig(teacher=str(model.folder), top_k=top_k)
        began = time.process_time()
        teaching = teach(Run.local(folder / "teach"), asked, prepared=data)
        return cls(folder, data, teaching, time.process_time() - began, objective)

    def results(self, steps: Sequence[int], seeds: Sequence[int]) -> Iterator[Result]:
        """What a step costs, and who has fewer bits when the time is up."""
        bare, seconds = self.cost()
        yield Result(
            "time of a bare step with the teacher / alone",
            f"{bare:.3f} x",
            f"<= {OVERHEAD_GOAL:g} x",
            f"{1000 * seconds:.1f} ms of CPU alone; {self.objective.divergence}, top {self.teaching.details['top_k']}, "
            f"alpha {self.objective.alpha:g}, temperature {self.objective.temperature:g}",
        )
        alone: dict[int, float] = {}
        for count in steps:
            began = time.process_time()
            baseline = [self.bits(count, seed, taught=False) for seed in seeds]
            alone[count], spent = mean(baseline), (time.process_time() - began) / len(seeds)
            step = spent / count
            for what, left in (("", spent), (", the teacher's pass counted", spent - self.teaching_seconds)):
                rivals = round(left / (step + (bare - 1) * seconds))
                if rivals < 1:
                    continue
                found = [self.bits(rivals, seed, taught=True) for seed in seeds]
                changes = [100 * (one / other - 1) for one, other in zip(found, baseline, strict=True)]
                yield Result(
                    f"bits per byte, taught {rivals:,} steps / alone {count:,}{what}",
                    f"{mean(found):.4f} / {mean(baseline):.4f}, {mean(changes):+.1f} %",
                    "fewer",
                    f"{spent:.0f} s of CPU; by seed {' '.join(f'{change:+.1f}' for change in changes)} %",
                )
        for fewer, more in pairwise(steps):
            slope = log(alone[more] / alone[fewer]) / log(more / fewer)
            yield Result(f"alone, {fewer:,} to {more:,} steps: bits fall as steps to the power", f"{slope:.2f}")

    def cost(self) -> tuple[float, float]:
        """CPU time of a step with the teacher over one without, the median of pairs; and seconds of one without."""
        taught = self.step(Distillation(self.objective, self.teaching.call_id), self.columns())
        sides = {"alone": self.step(NextToken(), {}), "taught": taught}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(-3, ROUNDS):
            for name in sorted(sides, reverse=turn % 2 == 0):
                began = time.process_time()
                sides[name]()
                if turn >= 0:
                    times[name].append(time.process_time() - began)
        pairs = zip(times["taught"], times["alone"], strict=True)
        return median(one / other for one, other in pairs), median(times["alone"])

    def step(self, objective: Objective, columns: TokenColumns) -> Callable[[], None]:
        """An optimizer step, as often as one likes, reading its batch included."""
        shards, length = self.prepared.shards(), STUDENT.context_length
        module = TrainingModule(Transformer(STUDENT, shards.vocab_size), TRAINER, objective)
        chosen, split, size = optimizer(module, TRAINER), shards.splits["train"], TRAINER.batch_size
        order = training_order(split, length, size, size, seed=0, ranks=1)
        batches = iter(TrainingBatches(split, order, length, shards.boundary_id, 0, 0, 10 * ROUNDS, columns))
        narrow = chosen_precision("auto", torch.device("cpu")) == "bf16-mixed"

        def step() -> None:
            batch = next(batches)
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                losses, weights = module.objective.losses(batch, module.outputs(batch), ForwardPass(0, 0, Ranks()))
            (losses.sum() / weights.sum()).backward()  # type: ignore[no-untyped-call]
            chosen.step()
            chosen.zero_grad()

        return step

    def columns(self) -> TokenColumns:
        """What the teacher has said."""
        return self.teaching.columns(self.prepared.shards())

    def bits(self, steps: int, seed: int, *, taught: bool) -> float:
        """Bits per byte of the validation split after training from scratch."""
        trainer = TRAINER.model_copy(update={"max_steps": steps, "seed": seed})
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            run = Run.local(Path(folder))
            if taught:
                plan = DistillStageConfig(model=STUDENT, trainer=trainer, objective=self.objective)
                made = distill.stage(run, plan, prepared=self.prepared, teaching=self.teaching)
            else:
                made = pretrain.stage(run, PretrainConfig(model=STUDENT, trainer=trainer), prepared=self.prepared)
        return made.metrics["validation_bits_per_byte"]


if __name__ == "__main__":
    main()
