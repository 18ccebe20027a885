"""The best validation of a run so far: its weights are kept, and training stops when nothing better comes.

What was best follows from the rows of the history alone, which a resumed run has too. So an interrupted run keeps and
stops where it would have without the interruption.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning

from components.core.errors import ArtifactError, InputError
from components.training.checkpoints import AtomicCheckpointIO
from components.training.config import TrainerConfig
from components.training.history import History
from components.training.module import TrainingModule
from components.training.trained import read_history

NAME = "best-{step}.ckpt"


class Best(lightning.Callback):  # type: ignore[misc]
    """Saves the weights of every validation that is the best so far, and stops a run that has none any more.

    Comes after ``History``, whose rows it reads.
    """

    def __init__(self, folder: Path, config: TrainerConfig, history: History) -> None:
        self.folder = folder
        self.config = config
        self.history = history
        self._at_last_checkpoint = 0

    @property
    def step(self) -> int:
        """The step of the best validation. Raises ``InputError`` if the criterion is no metric of the validation."""
        return best_step(self._rows(), self.config)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and self._rows():
            self._at_last_checkpoint = self.step
        self._stop_if_patience_has_ended(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if trainer.is_global_zero and self.step == trainer.global_step and self.config.keep == "best":
            with self.history.paused():
                AtomicCheckpointIO().save_checkpoint(pl_module.trained_state(), self._path(trainer.global_step))
        self._stop_if_patience_has_ended(trainer)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remove the weights that neither this checkpoint nor the one before it would go on with."""
        if not trainer.is_global_zero or not self._rows():
            return
        needed = {self._path(self.step), self._path(self._at_last_checkpoint)}
        for path in set(self.folder.glob(NAME.format(step="*"))) - needed:
            path.unlink()
        self._at_last_checkpoint = self.step

    def restore(self, module: TrainingModule) -> None:
        """Give ``module`` the weights of the best validation; raises ``ArtifactError`` if their file is damaged."""
        path = self._path(self.step)
        if not path.is_file():
            raise ArtifactError(f"the weights of the best validation, {path}, are missing: train again from the start")
        module.load_trained_state(AtomicCheckpointIO().load_checkpoint(path))

    def _stop_if_patience_has_ended(self, trainer: lightning.Trainer) -> None:
        if not self.config.patience:
            return
        # Only the first rank has the history; the others stop when it does.
        ended = trainer.is_global_zero and self._validations_since_the_best() >= self.config.patience
        trainer.should_stop = trainer.should_stop or trainer.strategy.reduce_boolean_decision(ended, all=False)

    def _validations_since_the_best(self) -> int:
        rows = self._rows()
        return validations_since(rows, best_step(rows, self.config)) if rows else 0

    def _rows(self) -> list[dict[str, Any]]:
        return [row for row in read_history(self.history.path) if "validation_loss" in row]

    def _path(self, step: int) -> Path:
        return self.folder / NAME.format(step=step)


def best_step(rows: Sequence[Mapping[str, float]], config: TrainerConfig) -> int:
    """Step of the best of ``rows``, one for each validation; of equal ones the first.

    Raises ``InputError`` if the criterion is not among their metrics.
    """
    name, sign = config.criterion, 1 if config.better == "lower" else -1
    if missing := [row for row in rows if name not in row]:
        raise InputError(
            f"trainer.criterion={name} is no metric of this validation: choose one of "
            f"{', '.join(sorted(missing[0].keys() - {'step'}))}"
        )
    best = min(rows, key=lambda row: math.inf if math.isnan(row[name]) else sign * row[name])
    return int(best["step"])


def validations_since(rows: Sequence[Mapping[str, float]], step: int) -> int:
    """How many of ``rows`` came after ``step``."""
    return sum(row["step"] > step for row in rows)
