"""The speed of finetuning against that of pretraining. ``python -m benchmarks.finetuning``.

Optimizer steps of one model, in turns in one process: on windows of the corpus as pretraining reads them, on packed
conversations of which every token is learnt, and on the same with the loss on the assistant's tokens only. Reading the
windows is part of a step. The shape, the data and the optimizer are those of ``make run``.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.results import Result, add_record_option, given_command, record
from benchmarks.training import interleaved, plain_step
from components.core.run import Run
from components.data import prepare
from components.data.chats.columns import LEARNT
from components.data.chats.config import ChatsConfig
from components.data.config import DataConfig
from components.data.shards import ShardSet
from components.finetune.chat import prepare as prepare_chats
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import TrainerConfig
from components.training.loader import Batch, TokenColumns, TrainingBatches, training_order
from components.training.module import TrainingModule
from components.training.objectives.base import Objective
from components.training.objectives.masked import Masked
from components.training.objectives.next_token import NextToken
from components.training.optimizer import optimizer
from components.training.precision import chosen_precision

TUNING_GOAL, MASK_GOAL = 0.95, 0.98
"""Tokens per second over those of pretraining, and with a mask over those without: 2 % are what rounds differ by."""


def main() -> None:
    """Make the data, time the steps, print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetuning", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="steps of each kind")
    parser.add_argument("--threads", type=int, help="of the processor; by default all")
    add_record_option(parser)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        results = list(compared(Path(folder), given.rounds))
    table = Table("what", "measured", "goal", "remark", title=f"{torch.get_num_threads()} threads, {torch.__version__}")
    for result in results:
        table.add_row(result.what, result.measured, result.goal, result.remark)
    Console().print(table)
    if given.record:
        record("finetuning", results, given_command("benchmarks.finetuning"))


def compared(folder: Path, rounds: int) -> Iterator[Result]:
    """Steps of every kind, in turns."""
    text = DataConfig()
    run = Run.local(folder / "prepare", config=text.model_dump(mode="json"))  # the conversations are about its world
    data = prepare.stage(run, text)
    chats = prepare_chats.stage(Run.local(folder / "chats"), ChatsConfig(), prepared=data)
    settings, model, vocabulary = TrainerConfig(), ModelConfig(), data.shards().vocab_size
    precision = chosen_precision(settings.precision, torch.device("cpu"))

    def step(shards: ShardSet, objective: Objective, columns: TokenColumns) -> Callable[[], Tensor]:
        torch.manual_seed(0)
        module = TrainingModule(Transformer(model, vocabulary), settings, objective)
        batches = _batches(shards, settings.batch_size, model.context_length, columns)
        return plain_step(module, optimizer(module, settings), precision, lambda: next(batches))

    steps: Mapping[str, Callable[[], Tensor]] = {
        "pretraining": step(data.shards(), NextToken(), {}),
        "conversations": step(chats.shards(), NextToken(), {}),
        "masked": step(chats.shards(), Masked(NextToken(), LEARNT), {LEARNT: chats.columns[LEARNT]}),
    }
    seconds = interleaved(steps, rounds)
    tokens = settings.batch_size * model.context_length
    speed = {name: f"{tokens / time:,.0f} tokens/s" for name, time in seconds.items()}
    remark = f"{speed['masked']} against {speed['pretraining']}; {precision}, {rounds} rounds"
    ratio = seconds["pretraining"] / seconds["masked"]
    yield Result("full tuning / pretraining, tokens/s", f"{ratio:.2f} x", f">= {TUNING_GOAL} x", remark)
    ratio = seconds["conversations"] / seconds["masked"]
    remark = f"{speed['masked']} against {speed['conversations']}, on the same windows"
    yield Result("loss on some tokens / on all, tokens/s", f"{ratio:.2f} x", f">= {MASK_GOAL} x", remark)


def _batches(shards: ShardSet, size: int, length: int, columns: TokenColumns) -> Iterator[Batch]:
    split = shards.splits["train"]
    order = training_order(split, length, size, size, seed=0, ranks=1)
    return iter(TrainingBatches(split, order, length, shards.boundary_id, 0, 0, 100_000, columns))


if __name__ == "__main__":
    main()
