"""A classifier in use: text in, a probability for each label out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float

from components.core.errors import ArtifactError
from components.core.records import read_record
from components.data.tokenizer import TextTokenizer
from components.evaluation.autocast import scoring_device
from components.finetune.classify.artifacts import Classifier
from components.finetune.classify.head import Head
from components.finetune.classify.labels import LabelSet
from components.model.checkpoint import load_model
from components.model.transformer import Transformer
from components.training.trained import model_folder

Parts = Literal["both", "network", "ngrams"]


@dataclass(frozen=True)
class TextClassifier:
    """A model with its head, its labels and its tokenizer."""

    model: Transformer
    head: Head
    tokenizer: TextTokenizer

    @classmethod
    def open(cls, folder: Path, device: str = "auto") -> Self:
        """Open the artifact of the stage ``classify``, or its model folder.

        Raises ``ArtifactError`` if something is missing or damaged.
        """
        folder = model_folder(folder)
        for name in (Classifier.LABELS, Classifier.HEAD):
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} has no {name}: give the result of `lacewing finetune finetune=classify`")
        model = load_model(folder, scoring_device(device))
        labels = read_record(folder / Classifier.LABELS, LabelSet, "a set of labels")
        head = Head.open(folder, model.config.width, labels)
        return cls(model, head.to(model.output_weight.device), TextTokenizer.load(folder))

    @property
    def labels(self) -> LabelSet:
        return self.head.labels

    def predict(self, texts: Sequence[str], parts: Parts = "both") -> list[list[str]]:
        """The labels of each text: the likeliest, or where several are possible all that are likelier than not.

        ``parts`` as in ``probabilities``.
        """
        found = self.probabilities(texts, parts=parts)
        if self.labels.kind == "single":
            return [[self.labels.labels[best]] for best in found.argmax(axis=1)]
        return [[self.labels.labels[number] for number in np.flatnonzero(row > 0.5)] for row in found]

    def probabilities(
        self, texts: Sequence[str], batch_texts: int = 64, parts: Parts = "both"
    ) -> Float[np.ndarray, "texts labels"]:
        """The probability of each label: they sum to 1, unless a text may have several.

        For the network, a text that is longer than the context counts up to there, as in training. ``parts`` leaves
        either of the two out, to see what it is worth; a classifier without n-grams finds all labels alike by them.
        """
        scores = np.zeros((len(texts), len(self.labels.labels)))
        if parts != "ngrams":
            scores += self._network(texts, batch_texts)
        if parts != "network" and self.head.ngrams is not None:
            scores += self.head.ngrams(texts)
        chances = torch.from_numpy(scores)
        found: Float[np.ndarray, "texts labels"] = (
            chances.softmax(dim=-1) if self.labels.kind == "single" else chances.sigmoid()
        ).numpy()
        return found

    @torch.inference_mode()
    def _network(self, texts: Sequence[str], batch_texts: int) -> Float[np.ndarray, "texts labels"]:
        longest = self.model.config.context_length - 1
        documents = [ids[:longest] for ids in self.tokenizer.encode_batch(list(texts))]
        found = np.empty((len(texts), len(self.labels.labels)))
        order = sorted(range(len(texts)), key=lambda number: len(documents[number]))  # so that little is padding
        for start in range(0, len(order), batch_texts):
            batch = order[start : start + batch_texts]
            found[batch] = self._batch([documents[number] for number in batch])
        return found

    def _batch(self, documents: Sequence[Sequence[int]]) -> Float[np.ndarray, "texts labels"]:
        boundary, device = self.tokenizer.end_of_text_id, self.model.output_weight.device
        length = 1 + max(map(len, documents))
        # What follows a text has no effect on it: attention is causal.
        rows = [[boundary, *ids, *[boundary] * (length - 1 - len(ids))] for ids in documents]
        hidden = self.model(torch.tensor(rows, device=device))
        starts = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=device)
        ends = torch.tensor([len(ids) for ids in documents], device=device)
        pooled = self.head.pooled(hidden, starts)[torch.arange(len(documents), device=device), ends]
        found: Float[np.ndarray, "texts labels"] = self.head(pooled).double().cpu().numpy()
        return found
