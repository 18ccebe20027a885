"""Checkpoints to resume from: one file, written whole or not at all, and a clean stop on SIGTERM."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from components.core.atomic import replacing
from components.core.errors import ArtifactError, LacewingError
from components.training.config import TrainerConfig
from components.training.history import History

CHECKPOINT = "last.ckpt"


class StoppedError(LacewingError):
    """Training was asked to stop by a signal and has saved a checkpoint to go on from."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, goes on


class AtomicCheckpointIO(CheckpointIO):  # type: ignore[misc]
    """Writes a checkpoint beside the old one, flushes it to disk and renames it: the old one stays until then."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises ``DiskFullError``, the previous checkpoint intact, if there is no room."""
        path = Path(path)
        with replacing(path) as temporary, _DiskFile(temporary) as file:
            torch.save(checkpoint, file)  # type: ignore[arg-type]

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Tensors and plain values only; raises ``ArtifactError`` if the file is damaged."""
        try:
            content: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:  # torch raises anything from EOFError to RuntimeError for a damaged file
            raise ArtifactError(
                f"the checkpoint {path} cannot be read ({type(error).__name__}: {error}): "
                "delete it to train from the start"
            ) from error
        return content

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class _DiskFile:
    """A file for ``torch.save`` that remembers why a write failed: torch itself reports only that one did."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._failure: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self._failure = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def __enter__(self) -> "_DiskFile":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self._file.close()
        finally:
            if self._failure is not None:
                raise self._failure from error


class Checkpoints(lightning.Callback):  # type: ignore[misc]
    """Saves every ``every_steps`` optimizer steps, and when SIGTERM or SIGINT asks the process to stop.

    A signal takes effect at the end of the step under way: a checkpoint is saved and ``StoppedError`` raised.
    A second signal ends the process at once.
    """

    def __init__(self, folder: Path, config: TrainerConfig, history: History) -> None:
        self.path = folder / CHECKPOINT
        self.every_steps = config.checkpoint_every_steps
        self.validate_every_steps = config.validate_every_steps
        self.history = history
        self.saved_step = 0
        self._stop_signal: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            # Set here, after Lightning has set its own: that one stops without a checkpoint.
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A validation that is due comes first: otherwise a run that resumes after this step would go without it.
        if trainer.global_step % self.validate_every_steps:
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: lightning.Trainer) -> None:
        step = trainer.global_step
        if step == self.saved_step:  # still accumulating
            return
        stopping = trainer.strategy.reduce_boolean_decision(self._stop_signal is not None, all=False)
        if stopping or step % self.every_steps == 0:
            self.history.require_finite(trainer)
            with self.history.paused():
                trainer.save_checkpoint(self.path)
            self.saved_step = step
        if stopping:
            raise StoppedError(
                f"stopped by {signal.Signals(self._stop_signal or signal.SIGTERM).name} after step {step} of "
                f"{trainer.max_steps}; {self.path} is saved: run the same command again to go on"
            )

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")  # which Lightning leaves out after an error

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop_signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._stop_signal = number
