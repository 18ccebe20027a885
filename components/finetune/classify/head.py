"""The head: pooled hidden states of a text in, a score for each label out."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor, nn

from components.core.atomic import write_bytes, write_text
from components.finetune.classify.artifacts import Classifier
from components.finetune.classify.labels import LabelSet


class Head(nn.Linear):
    """A linear layer, which at first finds all labels equally likely."""

    def __init__(self, width: int, labels: LabelSet) -> None:
        super().__init__(width, len(labels.labels))
        self.labels = labels
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def pooled(
        self, hidden: Float[Tensor, "batch seq width"], document_start: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq width"]:
        """For every position, what the head would read if the text ended there.

        ``document_start``: the boundary that opens the text of each position. It is no part of the mean.
        """
        hidden = hidden.float()
        if self.labels.pooling == "last":
            return hidden
        sums = hidden.cumsum(dim=1)
        before = torch.take_along_dim(sums, document_start[..., None], dim=1)
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        return (sums - before) / (positions - document_start).clamp(min=1)[..., None]

    def save(self, folder: Path) -> None:
        """Write ``head.safetensors`` and ``labels.json`` into the folder of a model."""
        write_text(folder / Classifier.LABELS, self.labels.model_dump_json(indent=2) + "\n")
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in self.named_parameters()}
        write_bytes(folder / Classifier.HEAD, save(tensors))
