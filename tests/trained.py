"""Models and trainings for tests of what goes on from them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from components.core.run import Run
from components.data.prepared import PreparedData
from components.model.checkpoint import save_model
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.checkpoints import Checkpoints
from components.training.trained import TrainedModel


def untrained(folder: Path, prepared: PreparedData, shape: ModelConfig) -> TrainedModel:
    """A sealed model that knows nothing."""
    run = Run.local(folder, "pretrain")
    tokenizer = prepared.tokenizer()
    torch.manual_seed(0)
    save_model(Transformer(shape, tokenizer.vocab_size), folder / TrainedModel.MODEL, tokenizer.special)
    for file in prepared.tokenizer_folder.iterdir():
        (folder / TrainedModel.MODEL / file.name).write_bytes(file.read_bytes())
    return run.seal({"tokens": 0.0}, {"tokens": 0}, view=TrainedModel)


@contextmanager
def stopping_after(step: int) -> Iterator[None]:
    """Within the block, a training gets a signal to stop when it has made ``step`` optimizer steps."""
    saving = Checkpoints.on_train_batch_end

    def stop(self: Checkpoints, loop: object, *rest: object) -> None:
        if loop.global_step == step:  # type: ignore[attr-defined]
            self._stop_signal = 15
        saving(self, loop, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        yield
