"""Short trainings on batches whose rows hold very unequal numbers of targets, divided in any way.

``python -m tests.training.ragged FOLDER`` is one rank of two, as its environment says.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, IterableDataset

from components.core.run import Run
from components.delegation.auxiliary_models import FactTable
from components.delegation.columns import FACTUAL
from components.delegation.config import DelegationConfig
from components.delegation.objective import Delegation
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import TrainerConfig
from components.training.history import History
from components.training.loader import IGNORED, Batch
from components.training.module import TrainingModule
from components.training.objectives.base import Objective
from components.training.objectives.next_token import NextToken
from components.training.trained import TrainedModel, read_history
from components.training.trainer import lightning_trainer

MODEL = ModelConfig(name="tiny", layers=1, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=32)
VOCABULARY, CALL, BOUNDARY = 96, 60, 91
STEPS, ROWS = 8, 8
OBJECTIVES = ("next token", "ntp", "defer", "ignore_facts", "lacy")
# Targets of each row: as in windows that the end of a split cuts short, down to one that has none at all.
VALID = (32, 1, 0, 5, 31, 2, 0, 1)


def objective(name: str, settings: TrainerConfig) -> Objective:
    """``next token``, or delegation with the selection of that name."""
    if name == "next token":
        return NextToken()
    delegation = DelegationConfig.model_validate({"selection": name, "budget": 0.3, "warmup_fraction": 0.0})
    return Delegation(delegation, settings, CALL, BOUNDARY, helper=FactTable() if name == "defer" else None)


def settings(**changes: Any) -> TrainerConfig:
    values = {
        "max_steps": STEPS,
        "batch_size": ROWS,
        "micro_batch_size": ROWS,
        "learning_rate": 1e-2,
        "precision": "32-true",
        "log_every_steps": 1,
        "validate_every_steps": STEPS,
    }
    return TrainerConfig.model_validate({**values, **changes})


def whole_step(step: int, valid: tuple[int, ...] = VALID) -> Batch:
    """All rows of an optimizer step: words that follow a rule, so that there is something to learn."""
    chance = torch.Generator().manual_seed(step)
    start = torch.randint(0, VOCABULARY, (ROWS, 1), generator=chance)
    tokens = (start + 7 * torch.arange(MODEL.context_length + 1)) % 53
    tokens[:, 9] = BOUNDARY
    targets = tokens[:, 1:].clone()
    counts = torch.tensor(valid).roll(step)
    targets[torch.arange(MODEL.context_length) >= counts[:, None]] = IGNORED
    factual = torch.rand(targets.shape, generator=chance) < 0.4
    return Batch(tokens[:, :-1].contiguous(), targets, torch.zeros_like(targets), {FACTUAL: factual})


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    tokens, targets, starts, columns = batch
    return Batch(tokens[rows], targets[rows], starts[rows], {name: column[rows] for name, column in columns.items()})


class Steps(IterableDataset[Batch]):
    """The micro-batches of one rank, in the order of ``TrainingOrder``."""

    def __init__(self, config: TrainerConfig, rank: int, valid: tuple[int, ...] = VALID) -> None:
        self.config, self.rank, self.valid = config, rank, valid

    def __iter__(self) -> Iterator[Batch]:
        size = self.config.micro_batch_size
        for step in range(self.config.max_steps):
            batch = whole_step(step, self.valid)
            for first in range(self.rank * size, ROWS, size * self.config.devices):
                yield rows_of(batch, slice(first, first + size))


class Data(lightning.LightningDataModule):  # type: ignore[misc]
    def __init__(self, config: TrainerConfig, valid: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.valid = config, valid

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        return DataLoader(Steps(self.config, self.trainer.global_rank, self.valid), batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self.train_dataloader()


def train(folder: Path, name: str, valid: tuple[int, ...] = VALID, **changes: Any) -> TrainingModule:
    """Train from the same weights; the history lies in ``folder``."""
    config = settings(**changes)
    torch.manual_seed(0)
    module = TrainingModule(Transformer(MODEL, VOCABULARY), config, objective(name, config))
    if config.compile:
        module.model.compile()
    history = History(Run.local(folder), config, ROWS * MODEL.context_length, 0.0, progress_bar=False)
    trainer = lightning_trainer(config, torch.device("cpu"), config.precision, folder, [history])
    trainer.fit(module, datamodule=Data(config, valid))
    return module


def curve(folder: Path) -> list[float]:
    """Loss and gradient norm of every step, and the metrics of the last validation."""
    names = ("loss", "gradient_norm", "validation_loss", "tokens_gt_grad", "tokens_call_grad")
    return [row[name] for row in read_history(folder / TrainedModel.HISTORY) for name in names if name in row]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in OBJECTIVES:
        train(Path(sys.argv[1]) / each, each, devices=2, micro_batch_size=ROWS // 2)
