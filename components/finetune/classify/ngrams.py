"""N-grams: a linear classifier of what a text is made of, beside the network.

From a few hundred texts a small network learns what rare words mean only where the base has read them often. Runs of
two to five characters, words and pairs of words tell labels apart from the first text on, as TF-IDF does, and make
other mistakes than the network. So both are trained by themselves, and their scores are added (a product of experts:
Hinton 2002, doi:10.1162/089976602760128018). Trained on one common loss, the faster of the two would leave the other
nothing to learn.

An n-gram is known by a hash of 64 bits, so a classifier does not hold the words of the texts that it was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt64
from torch import Tensor

from components.evaluation.contamination.words import WordHashes, runs
from components.finetune.classify.config import NgramConfig
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet

_CHARACTERS = range(2, 6)
"""Lengths of the runs of characters, within a word and the spaces around it."""
_WORDS = range(1, 3)
_REMEMBERED = 1 << 18  # words; so that memory stays bounded for any text
_ITERATIONS = 1000
_TOLERANCE = 1e-3
"""Largest element of the gradient of the mean loss at which the regression is done."""

Hashes = UInt64[np.ndarray, " found"]


class _Reader(dict[str, Hashes]):
    """The n-grams of texts; those within a word are remembered."""

    def __init__(self) -> None:
        super().__init__()
        self._hashes = WordHashes()

    def __missing__(self, word: str) -> Hashes:
        if len(self) >= _REMEMBERED:
            self.clear()
        padded = f" {word} "
        found = [padded[at : at + n] for n in _CHARACTERS for at in range(len(padded) - n + 1)]
        # The sign keeps a run of characters apart from the word that is written alike.
        self[word] = hashes = np.array([self._hashes[f"#{run}"] for run in found], dtype=np.uint64)
        return hashes

    def kinds(self, text: str) -> tuple[Hashes, Hashes]:
        """Runs of characters, and runs of words; with repetitions."""
        characters = [self[word] for word in text.lower().split()]
        words = self._hashes.of(text)
        return _joined(characters), _joined([runs(words, length) for length in _WORDS])


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of some texts: which ones a classifier knows."""

    hashes: UInt64[np.ndarray, " ngrams"]
    """In ascending order."""
    rarity: Float32[np.ndarray, " ngrams"]
    """ln((1 + texts) / (1 + texts that have it)) + 1."""

    @classmethod
    def of(cls, texts: Sequence[str], most: int) -> Self:
        """The n-grams of ``texts``, no more than ``most``: those that most texts have."""
        reader = _Reader()
        each = [np.unique(_joined(reader.kinds(text))) for text in texts]
        hashes, counts = np.unique(_joined(each), return_counts=True)
        kept = np.sort(np.argsort(-counts, kind="stable")[:most])
        rarity = np.log((1 + len(texts)) / (1 + counts[kept])) + 1
        return cls(hashes[kept], rarity.astype(np.float32))

    def features(self, texts: Sequence[str]) -> Any:
        """A sparse matrix ``[texts, ngrams]``: (1 + ln count) * rarity, of length 1 for each of the two kinds."""
        from scipy.sparse import csr_array

        reader = _Reader()
        columns, values, ends = [], [], [0]
        for text in texts:
            for found in reader.kinds(text):
                known, weights = self._weighted(found)
                columns.append(known)
                values.append(weights)
            ends.append(ends[-1] + len(columns[-1]) + len(columns[-2]))
        data = np.concatenate([np.empty(0), *values])
        indices = np.concatenate([np.empty(0, dtype=np.int32), *columns])
        return csr_array((data, indices, np.array(ends)), shape=(len(texts), len(self.hashes)))

    def _weighted(self, found: Hashes) -> tuple[np.ndarray, np.ndarray]:
        """Which n-grams a text has, and how much each counts in it."""
        hashes, counts = np.unique(found, return_counts=True)
        places = np.searchsorted(self.hashes, hashes)
        known = self.hashes[np.minimum(places, len(self.hashes) - 1)] == hashes
        places, counts = places[known].astype(np.int32), counts[known]
        weights = (1 + np.log(counts)) * self.rarity[places]
        return places, weights / max(np.linalg.norm(weights), 1e-12)


@dataclass(frozen=True)
class NgramScores:
    """A score for each label from the n-grams of a text."""

    ngrams: Ngrams
    weights: Float32[np.ndarray, "labels ngrams"]
    bias: Float32[np.ndarray, " labels"]

    @classmethod
    def fitted(
        cls, texts: Sequence[LabelledText], labels: LabelSet, class_weights: Sequence[float], config: NgramConfig
    ) -> Self:
        """Logistic regression on the n-grams of ``texts``, its scores multiplied by ``config.weight``.

        With several labels a text there is a regression for each label; ``class_weights`` count as in
        ``LabelCrossEntropy``.
        """
        ngrams = Ngrams.of([text.text for text in texts], config.most)
        features = ngrams.features([text.text for text in texts])
        wanted = [labels.numbers(text.labels) for text in texts]
        fit = _exclusive if labels.kind == "single" else _independent
        weights, bias = fit(features, wanted, class_weights, config.strength)
        return cls(ngrams, (config.weight * weights).astype(np.float32), (config.weight * bias).astype(np.float32))

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts labels"]:
        """The scores of ``texts``, to be added to those of the network."""
        scores: Float32[np.ndarray, "texts labels"] = self.ngrams.features(texts) @ self.weights.T + self.bias
        return scores.astype(np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """What a file needs to hold."""
        return {
            "hashes": torch.from_numpy(self.ngrams.hashes.view(np.int64)),
            "rarity": torch.from_numpy(self.ngrams.rarity),
            "weights": torch.from_numpy(np.ascontiguousarray(self.weights)),
            "bias": torch.from_numpy(self.bias),
        }

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], labels: int) -> Self:
        """Raises ``ValueError`` if ``tensors`` are not those of a classifier with so many labels."""
        try:
            hashes, rarity, weights, bias = (tensors[name].numpy() for name in ("hashes", "rarity", "weights", "bias"))
        except KeyError as error:
            raise ValueError(f"the n-grams have no {error}") from error
        shapes = (hashes.shape, rarity.shape, weights.shape, bias.shape)
        count = len(hashes)
        if shapes != ((count,), (count,), (labels, count), (labels,)):
            raise ValueError(f"n-grams of the shapes {shapes} do not fit {labels} labels")
        return cls(Ngrams(hashes.view(np.uint64), rarity), weights, bias)


def _exclusive(
    features: Any, wanted: Sequence[Sequence[int]], class_weights: Sequence[float], strength: float
) -> tuple[Float[np.ndarray, "labels ngrams"], Float[np.ndarray, " labels"]]:
    """Each text has one label. A label without a text is as unlikely as the least likely other one."""
    numbers = [labels[0] for labels in wanted]
    present = sorted(set(numbers))
    shape = len(class_weights), features.shape[1]
    if len(present) == 1:
        return np.zeros(shape), np.where(np.arange(shape[0]) == present[0], np.log(len(numbers) + 1.0), 0.0)
    weights, bias = _regression(features, numbers, class_weights, strength)
    if len(present) == 2:  # one row tells two labels apart
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    all_weights, all_bias = np.zeros(shape), np.full(shape[0], bias.min())
    all_weights[present], all_bias[present] = weights, bias
    return all_weights, all_bias


def _independent(
    features: Any, wanted: Sequence[Sequence[int]], class_weights: Sequence[float], strength: float
) -> tuple[Float[np.ndarray, "labels ngrams"], Float[np.ndarray, " labels"]]:
    """A text has any number of labels."""
    rows = []
    for label, weight in enumerate(class_weights):
        has = [label in numbers for numbers in wanted]
        if 0 < sum(has) < len(has):
            rows.append(_regression(features, has, [1.0, weight], strength))
        else:  # nothing to tell apart: the odds of such a text, counted as if half a text more had it, and half not
            odds = (sum(has) + 0.5) / (len(has) - sum(has) + 0.5)
            rows.append((np.zeros((1, features.shape[1])), np.log([odds])))
    return np.concatenate([weights for weights, _ in rows]), np.concatenate([bias for _, bias in rows])


def _regression(
    features: Any, wanted: Sequence[int], class_weights: Sequence[float], strength: float
) -> tuple[Float[np.ndarray, "rows ngrams"], Float[np.ndarray, " rows"]]:
    """Weights and bias; a single row if there are two classes, the score of the second."""
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(
        C=strength, max_iter=_ITERATIONS, tol=_TOLERANCE,
        class_weight={label: class_weights[label] for label in set(wanted)},
    )  # fmt: skip
    regression.fit(features, np.array(wanted, dtype=np.int64))
    return regression.coef_, regression.intercept_


def _joined(parts: Sequence[Hashes] | tuple[Hashes, ...]) -> Hashes:
    return np.concatenate([*parts, np.empty(0, dtype=np.uint64)])
