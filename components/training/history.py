"""The record of a training run: rows in ``history.jsonl``, metrics to ``run.log``, progress for people.

How fast it went stands in ``speed.jsonl``: it differs from run to run, and an equal model must be an equal artifact.
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from tqdm import tqdm

from components.core.atomic import full_disk_explained, write_text
from components.core.errors import InputError
from components.core.run import Run
from components.training.config import TrainerConfig
from components.training.module import TrainingModule
from components.training.optimizer import learning_rate_factor
from components.training.trained import TrainedModel, read_history


class History(lightning.Callback):  # type: ignore[misc]
    """Writes a row every ``log_every_steps`` optimizer steps and after every validation.

    Losses stay on the device between rows, so training never waits for a metric. Speed counts training only:
    validation, checkpoints and the very first step (compilation, memory) are left out.
    """

    def __init__(
        self,
        run: Run,
        config: TrainerConfig,
        tokens_per_step: int,
        peak_seconds_per_token: float,
        progress_bar: bool = True,
        name: str = "pretrain",
    ) -> None:
        self.path, self.speed_path = run.folder / TrainedModel.HISTORY, run.folder / TrainedModel.SPEED
        self.run = run
        self.config = config
        self.tokens_per_step = tokens_per_step
        """Tokens that are read in one step, over all ranks, masked ones too."""
        self.peak_seconds_per_token = peak_seconds_per_token
        """What a token would take at the hardware's peak: MFU is this over what it took."""
        self.progress_bar = progress_bar
        self.name = name
        self.validated_step = 0
        """The step after which the validation split was last looked at in this process."""
        self._step = 0
        self._losses: list[Tensor] = []
        self._sum: Tensor | None = None
        self._timed_steps = 0
        self._mark: float | None = None
        self._validation_began = 0.0
        self._shown: dict[str, str] = {}
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._step = trainer.global_step
        if not trainer.is_global_zero:
            return
        self.run.folder.mkdir(parents=True, exist_ok=True)
        # After a kill the files may hold rows of steps that are about to be trained again, and half a row at the end.
        for path in (self.path, self.speed_path):
            rows = [row for row in read_history(path) if row["step"] <= self._step]
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        interval = 0.2 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=self.config.max_steps,
            initial=self._step,
            desc=self.name,
            unit="step",
            file=sys.stderr,
            mininterval=interval,
            disable=not self.progress_bar,
        )
        if self._step:
            self._bar.write(f"resumed after step {self._step} of {self.config.max_steps}", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        loss: Tensor = outputs["loss"]  # already divided by the number of accumulated micro-batches
        self._sum = loss if self._sum is None else self._sum + loss
        if trainer.global_step == self._step:  # still accumulating
            return
        self._step = trainer.global_step
        self._losses.append(self._sum * pl_module.correction)  # as the gradients: over the weights of the whole step
        self._sum = None
        if self._mark is None:
            self._start_clock(loss)
        else:
            self._timed_steps += 1
        if self._step % self.config.log_every_steps == 0 or self._step == self.config.max_steps:
            self._log(trainer, pl_module)
        if self._bar is not None:
            self._bar.update(1)
            if self._step * 100 // self.config.max_steps > (self._step - 1) * 100 // self.config.max_steps:
                self.run.report(self._step / self.config.max_steps, f"step {self._step} of {self.config.max_steps}")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if self._mark is not None:
            self._mark += time.perf_counter() - self._validation_began
        self.validated_step = self._step
        if trainer.is_global_zero:
            _append(self.path, {"step": self._step, **pl_module.validation})
            self._show({"validation": f"{pl_module.validation['validation_loss']:.3f}"})
            self.run.log(pl_module.validation, self._step)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")  # which Lightning leaves out after an error

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out of the training speed."""
        began = time.perf_counter()
        yield
        if self._mark is not None:
            self._mark += time.perf_counter() - began

    def require_finite(self, trainer: lightning.Trainer) -> list[float]:
        """The losses since the last row, as means over all ranks.

        Raises ``InputError`` naming the first step whose loss is no number, and the windows of its batch.
        """
        if not self._losses:
            return []
        losses: list[float] = trainer.strategy.reduce(torch.stack(self._losses), reduce_op="mean").tolist()
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise self._diverged(trainer, "loss", loss, self._step - len(losses) + 1 + index)
        assert isinstance(trainer.lightning_module, TrainingModule)
        # What this step has done to the weights is not in its loss yet.
        if not math.isfinite(norm := trainer.lightning_module.gradient_norm.item()):
            raise self._diverged(trainer, "gradient norm", norm, self._step)
        return losses

    def _diverged(self, trainer: lightning.Trainer, what: str, value: float, step: int) -> InputError:
        windows = ", ".join(map(str, trainer.datamodule.order.windows_of(step - 1)))
        return InputError(
            f"the {what} became {value} at step {step} of {self.config.max_steps}: training has diverged and stops. "
            f"The last checkpoint is from before it. The batch was windows {windows} of the training split. "
            f"Lower trainer.learning_rate (given: {self.config.learning_rate:g}), raise "
            f"trainer.warmup_fraction (given: {self.config.warmup_fraction:g}) or set trainer.precision=32-true"
        )

    def _log(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        losses = self.require_finite(trainer)
        now = time.perf_counter()
        row = {
            "step": self._step,
            "loss": sum(losses) / len(losses),
            "learning_rate": learning_rate(trainer),
            "gradient_norm": module.gradient_norm.item(),
            **module.objective.metrics(),
        }
        speed = self._speed(now)
        self._mark, self._timed_steps, self._losses = now, 0, []
        if trainer.is_global_zero:
            _append(self.path, row)
            if speed:
                _append(self.speed_path, {"step": self._step, **speed})
            shown = {name: value for name, value in {**row, **speed}.items() if name not in ("step", "seconds")}
            self.run.log(shown, self._step)
            self._show({"loss": f"{row['loss']:.3f}", "tok/s": f"{speed.get('tokens_per_second', math.nan):,.0f}"})

    def _speed(self, now: float) -> dict[str, float]:
        """Of the steps since the last row; empty if none was timed."""
        if not self._timed_steps or self._mark is None:
            return {}
        seconds = now - self._mark
        rate = self._timed_steps * self.tokens_per_step / seconds
        return {"seconds": seconds, "tokens_per_second": rate, "mfu": rate * self.peak_seconds_per_token}

    def _start_clock(self, loss: Tensor) -> None:
        loss.item()  # wait for the device once: the first step's work must not count for the second
        self._mark = time.perf_counter()

    def _show(self, metrics: dict[str, str]) -> None:
        self._shown |= metrics
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)


def _append(path: Path, row: Mapping[str, float]) -> None:
    with full_disk_explained(path), path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def learning_rate(trainer: lightning.Trainer) -> float:
    """The rate that the last step was taken with (the schedule has already moved on to the next)."""
    module = trainer.lightning_module
    assert isinstance(module, TrainingModule)
    return module.config.learning_rate * learning_rate_factor(trainer.global_step - 1, module.config)


def last_metric(rows: list[dict[str, Any]], name: str) -> float:
    """The latest value of a metric; nan if no row has it."""
    return next((float(row[name]) for row in reversed(rows) if name in row), math.nan)


def mean_tokens_per_second(rows: list[dict[str, Any]]) -> float:
    """Tokens per second over all rows of speed, also those of before a resume; nan if there are none."""
    seconds = sum(row["seconds"] for row in rows)
    return sum(row["tokens_per_second"] * row["seconds"] for row in rows) / seconds if seconds else math.nan
