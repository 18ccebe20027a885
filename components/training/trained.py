"""The artifact of the stages that train: a model folder and the history of its training. Light: no torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from components.core.artifact import SPEED, Artifact
from components.data.model_tokenizer import ModelWithTokenizer

if TYPE_CHECKING:
    import torch

    from components.model.transformer import Transformer


class TrainedModel(Artifact):
    """A model, plain, taught to delegate, or finetuned; all have the same layout."""

    stages: ClassVar[tuple[str, ...]] = ("pretrain", "delegate", "derive", "chat", "prefer", "distill")

    MODEL: ClassVar = ModelWithTokenizer.MODEL
    HISTORY: ClassVar = "history.jsonl"
    SPEED: ClassVar = SPEED
    ADAPTER: ClassVar = "adapter"

    @property
    def model_folder(self) -> Path:
        """Weights, configuration and tokenizer, in Hugging Face's layout."""
        return self.path(self.MODEL)

    @property
    def adapter_folder(self) -> Path:
        """The adapter by itself, in PEFT's format; raises ``ArtifactError`` if all weights were trained."""
        return self.path(self.ADAPTER)

    def load(self, device: "torch.device | str" = "cpu") -> "Transformer":
        """The model, its files checked against the record; raises ``ArtifactError`` if one was altered."""
        from components.model.checkpoint import load_model

        return load_model(self.verify().model_folder, device)

    def history(self) -> list[dict[str, Any]]:
        """A row for every logged step and validation; equal where the weights are."""
        return read_history(self.path(self.HISTORY))

    def speed(self) -> list[dict[str, Any]]:
        """A row for every logged step whose time was measured."""
        return read_history(self.path(self.SPEED))

    @property
    def tokens_seen(self) -> int:
        """Tokens of all its training, repetitions and the training that it started from included."""
        # Metrics are for people and no part of the content. Older artifacts have this number nowhere else.
        own = self.details["tokens"] if "tokens" in self.details else self.metrics["tokens"]
        return int(own) + int(self.details.get("tokens_before", 0))


def model_folder(folder: Path) -> Path:
    """The folder of a model, given that folder or the artifact of a stage that trains."""
    inside = folder / TrainedModel.MODEL
    return inside if inside.is_dir() else folder


def read_history(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a history file; none if there is no file."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]  # what follows the last line end is half a row
