"""How many nats a model needs for held-out documents: the number behind bits per byte and perplexity.

Each document is scored alone, as training showed it: after a boundary token, and including the boundary that ends it.
(Without the end the model would not be a probability distribution over texts: stopping is part of the prediction.)
A document of n tokens therefore costs n + 1 predictions.

A document longer than the context is read in windows that advance by half a context; each window after the first scores
only the predictions with at least half a context before them, so every token is scored once and never from a cold
start. Long documents are read twice for it: the price of results that do not depend on where the windows begin.

``<CALL>`` takes no part in the softmax: text never contains it, and a model that has learned to ask would pay in
likelihood for every doubt that it earns back in answers. The probability it gives to ``<CALL>`` is reported apart.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from components.core.atomic import replacing
from components.model.ops import linear_cross_entropy
from components.model.transformer import Transformer

Ids = Sequence[int] | Integer[np.ndarray, " tokens"]


@dataclass(frozen=True)
class DocumentScores:
    """What each of a number of documents costs a model."""

    nats: Float[np.ndarray, " documents"]
    """Negative log-likelihood of the document, its ending included."""
    bytes: Int[np.ndarray, " documents"]
    """Size of its text in UTF-8."""
    tokens: Int[np.ndarray, " documents"]
    """Predictions made, the ending included."""
    call_mass: Float[np.ndarray, " documents"]
    """Sum over these predictions of the probability of ``<CALL>``, had it been allowed."""

    @property
    def bits(self) -> Float[np.ndarray, " documents"]:
        return self.nats / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits for all documents over bytes of all documents: comparable between tokenizers."""
        return float(self.bits.sum() / self.bytes.sum())

    @property
    def perplexity(self) -> float:
        """exp of the mean nats per prediction; infinite beyond what a float holds."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.nats.sum() / self.tokens.sum()))

    @property
    def call_probability(self) -> float:
        """Mean probability of ``<CALL>`` per prediction."""
        return float(self.call_mass.sum() / self.tokens.sum())

    def save(self, path: Path) -> None:
        """Write one record per document (``nats``, ``bytes``, ``tokens``, ``call_mass``) as a structured ``.npy``."""
        columns = {"nats": self.nats, "bytes": self.bytes, "tokens": self.tokens, "call_mass": self.call_mass}
        table = np.empty(len(self.nats), dtype=[(name, column.dtype) for name, column in columns.items()])
        for name, column in columns.items():
            table[name] = column
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, table, allow_pickle=False)


@dataclass(frozen=True)
class Window:
    """A stretch of one document that fits the context; predictions before ``scored_from`` only give context."""

    document: int
    start: int
    """Index in the document of the first token that is predicted."""
    inputs: Integer[np.ndarray, " window"]
    targets: Integer[np.ndarray, " window"]
    scored_from: int


@torch.inference_mode()
def score_documents(
    model: Transformer,
    documents: Sequence[Ids],
    n_bytes: Sequence[int] | Integer[np.ndarray, " documents"],
    boundary_id: int,
    call_id: int,
    batch_tokens: int = 8192,
    report: Callable[[float], None] = lambda fraction: None,
) -> DocumentScores:
    """Score every document on the model's device, under the autocast that the caller has set.

    Arguments:
        documents: ids of each, without boundaries; ``n_bytes`` the size of each text.
        boundary_id: the token before and after every document; ``call_id``: the token left out of the softmax.
        batch_tokens: inputs per forward pass. Windows of like length go together, so little of it is padding.
        report: called with the fraction done after every batch.
    """
    nats, call_mass = np.zeros(len(documents)), np.zeros(len(documents))
    parts = [
        window
        for document, ids in enumerate(documents)
        for window in windows(document, ids, boundary_id, model.config.context_length)
    ]
    total, done = sum(len(window.inputs) for window in parts), 0
    for batch in batches(parts, batch_tokens):
        document, batch_nats, batch_call = _score_batch(model, batch, call_id)
        np.add.at(nats, document, batch_nats)
        np.add.at(call_mass, document, batch_call)
        done += sum(len(window.inputs) for window in batch)
        report(done / total)
    tokens = np.array([len(ids) + 1 for ids in documents], dtype=np.int64)
    return DocumentScores(nats, np.asarray(n_bytes, dtype=np.int64), tokens, call_mass)


def windows(document: int, ids: Ids, boundary_id: int, context: int) -> Iterator[Window]:
    """Cut a document, a boundary before and after it, into windows that score each prediction once."""
    row = np.concatenate(([boundary_id], np.asarray(ids, dtype=np.int64), [boundary_id]))
    inputs, targets = row[:-1], row[1:]
    overlap = context // 2
    for start in range(0, max(len(inputs) - overlap, 1), context - overlap):
        cut = slice(start, start + context)
        yield Window(document, start, inputs[cut], targets[cut], scored_from=overlap if start else 0)


def batches(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Longest first: padding stays small, and the batch that needs most memory comes at once, not at the end."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda window: -len(window.inputs)):
        if batch and (len(batch) + 1) * len(batch[0].inputs) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _score_batch(
    model: Transformer, batch: Sequence[Window], call_id: int
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Per scored prediction: its document, its nats without ``<CALL>``, the probability of ``<CALL>``."""
    shape = len(batch), len(batch[0].inputs)
    inputs, targets = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    document = np.full(shape, -1)
    for row, window in enumerate(batch):
        length = len(window.inputs)
        # Padding follows the text, and attention is causal, so its content has no effect.
        inputs[row, :length], targets[row, :length] = window.inputs, window.targets
        document[row, window.scored_from : length] = window.document
    device = model.output_weight.device
    scored = torch.from_numpy(document >= 0).to(device)
    hidden = model(torch.from_numpy(inputs).to(device))[scored]
    nats, call = _without_call(hidden, model.output_weight, torch.from_numpy(targets).to(device)[scored], call_id)
    return document[document >= 0], nats.double().cpu().numpy(), call.double().cpu().numpy()


def _without_call(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocab width"],
    targets: Int[Tensor, "rows"],
    call_id: int,
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows"]]:
    """Nats of the targets when ``<CALL>`` cannot occur, and the probability of ``<CALL>`` when it can.

    The row of ``<CALL>`` is cut out of the output matrix rather than subtracted from the result: where a model calls
    with near certainty, log(1 - p) would keep no digits. With Z' the sum over the other tokens,
    p(call) = e^call / (e^call + Z') = sigmoid(call - log Z') and log Z' = logit(target) + nats.
    """
    others = torch.cat((weight[:call_id], weight[call_id + 1 :]))
    nats = linear_cross_entropy(hidden, others, targets - (targets > call_id).long())
    hidden, weight = hidden.float(), weight.float()
    target_logit = (hidden * weight[targets]).sum(dim=-1)
    return nats, torch.sigmoid(hidden @ weight[call_id] - target_logit - nats)
