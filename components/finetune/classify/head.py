"""The head: pooled hidden states of a text in, a score for each label out; n-grams have scores of their own."""

from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from components.core.atomic import write_bytes, write_text
from components.core.errors import ArtifactError
from components.finetune.classify.artifacts import Classifier
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.ngrams import NgramScores

_NGRAMS = "ngrams."


class Head(nn.Linear):
    """A linear layer, which at first finds all labels equally likely."""

    def __init__(self, width: int, labels: LabelSet, ngrams: NgramScores | None = None) -> None:
        super().__init__(width, len(labels.labels))
        self.labels = labels
        self.ngrams = ngrams
        """What is added to the scores of this layer once it is trained."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    @classmethod
    def open(cls, folder: Path, width: int, labels: LabelSet) -> Self:
        """Read ``head.safetensors``; raises ``ArtifactError`` if it is no head of such a model."""
        path = folder / Classifier.HEAD
        try:
            tensors = load(path.read_bytes())
            of_ngrams = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_NGRAMS)}
            head = cls(width, labels)
            head.load_state_dict(tensors)
            if of_ngrams:
                found = {name.removeprefix(_NGRAMS): tensor for name, tensor in of_ngrams.items()}
                head.ngrams = NgramScores.of_tensors(found, len(labels.labels))
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"{path} is no head of this model: {error}") from error
        return head

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
        if self.ngrams is not None:
            tensors |= {_NGRAMS + name: tensor for name, tensor in self.ngrams.tensors().items()}
        write_bytes(folder / Classifier.HEAD, save(tensors))
