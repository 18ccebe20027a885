"""Predictions of a small model at every position of held-out text, with the gold text before it.

One pass gives everything that the metrics of delegation need: a call budget only places calls on these positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer

from components.cascade.config import CallScore
from components.data.shards import Split
from components.data.tokenizer import TextTokenizer
from components.evaluation.likelihood import Ids, Window, batches, windows
from components.labelling.labels import FactBits
from components.model import ops
from components.model.transformer import Transformer


@dataclass(frozen=True)
class Predictions:
    """Predictions on documents in the order of their text, the boundary after each document included."""

    document: Int[np.ndarray, " positions"]
    """Which of the documents."""
    place: Int[np.ndarray, " positions"]
    """Index of the predicted token in its document."""
    gold: Int[np.ndarray, " positions"]
    """Token that follows."""
    predicted: Int[np.ndarray, " positions"]
    """Likeliest token, ``<CALL>`` left out."""
    nats: Float[np.ndarray, " positions"]
    """-log P(gold), ``<CALL>`` left out."""
    entropy: Float[np.ndarray, " positions"]
    """Entropy in nats, without ``<CALL>``: the uncertainty of a model that never learned to call."""
    margin: Float[np.ndarray, " positions"]
    """One minus the probability of ``predicted``, ``<CALL>`` left out."""
    call: Float[np.ndarray, " positions"]
    """log-odds of ``<CALL>`` against all other tokens. (P(CALL) would be 1 on many facts, and lose the order.)"""
    factual: Bool[np.ndarray, " positions"]
    """Whether the gold token states a fact."""
    bytes: Int[np.ndarray, " positions"]
    """Length of the gold token in UTF-8; 0 for boundaries."""

    def __len__(self) -> int:
        return len(self.gold)

    def between(self, start: int, stop: int) -> "Predictions":
        """Those of the positions from ``start`` to before ``stop``."""
        return Predictions(**{each.name: getattr(self, each.name)[start:stop] for each in fields(self)})

    @property
    def right(self) -> Bool[np.ndarray, " positions"]:
        """Whether the model alone says the gold token."""
        right: Bool[np.ndarray, " positions"] = self.gold == self.predicted
        return right

    def asking(self, score: CallScore) -> Float[np.ndarray, " positions"]:
        """How much each position asks for a call: what the call rule compares with its threshold."""
        if score == "call":
            probability: Float[np.ndarray, " positions"] = 1 / (1 + np.exp(-self.call))
            return probability
        return self.entropy if score == "entropy" else self.margin

    @property
    def wrong_facts(self) -> Bool[np.ndarray, " positions"]:
        """Where a call is worth most: a fact that the model does not know."""
        wrong: Bool[np.ndarray, " positions"] = self.factual & ~self.right
        return wrong


def predict(
    model: Transformer,
    tokenizer: TextTokenizer,
    split: Split,
    documents: Sequence[int],
    labels: FactBits,
    batch_tokens: int = 8192,
    report: Callable[[float], None] = lambda fraction: None,
) -> Predictions:
    """Predict every token of ``documents`` (indices in ``split``) under the autocast that the caller has set."""
    texts = [split.document(i) for i in documents]
    starts = split.documents[np.asarray(documents), 0]
    factual = [
        labels.slice(split.name, start, start + len(ids)) for start, ids in zip(starts.tolist(), texts, strict=True)
    ]
    return predict_texts(model, tokenizer, texts, factual, batch_tokens, report)


@torch.inference_mode()
def predict_texts(
    model: Transformer,
    tokenizer: TextTokenizer,
    texts: Sequence[Ids],
    factual: Sequence[Bool[np.ndarray, " tokens"]],
    batch_tokens: int = 8192,
    report: Callable[[float], None] = lambda fraction: None,
) -> Predictions:
    """The same for the ids of any texts; ``factual`` says of each of their tokens whether it states a fact."""
    parts = [
        window
        for number, ids in enumerate(texts)
        for window in windows(number, ids, tokenizer.end_of_text_id, model.config.context_length)
    ]
    columns: list[dict[str, Any]] = []
    done, total = 0, sum(len(part.inputs) for part in parts)
    for batch in batches(parts, batch_tokens):
        columns.append(_predicted(model, batch, tokenizer.call_id))
        done += sum(len(part.inputs) for part in batch)
        report(done / total)
    joined = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    order = np.lexsort((joined["place"], joined["document"]))
    joined = {name: values[order] for name, values in joined.items()}
    sizes = np.array([len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)])
    bits = [np.append(each, False) for each in factual]  # a boundary states nothing
    return Predictions(**joined, factual=np.concatenate(bits), bytes=sizes[joined["gold"]])


def predict_each(
    model: Transformer,
    tokenizer: TextTokenizer,
    texts: Sequence[Ids],
    factual: Sequence[Bool[np.ndarray, " tokens"]],
    batch_tokens: int = 8192,
    report: Callable[[float], None] = lambda fraction: None,
) -> list[Predictions]:
    """As ``predict_texts``, but the predictions of each text by themselves, its boundary included."""
    joined = predict_texts(model, tokenizer, texts, factual, batch_tokens, report)
    ends = np.cumsum([len(each) + 1 for each in texts])
    return [joined.between(end - len(each) - 1, end) for end, each in zip(ends.tolist(), texts, strict=True)]


def _predicted(model: Transformer, batch: Sequence[Window], call_id: int) -> dict[str, Integer[np.ndarray, " rows"]]:
    shape = len(batch), len(batch[0].inputs)
    inputs, targets = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    document, place = np.full(shape, -1), np.zeros(shape, dtype=np.int64)
    for row, window in enumerate(batch):
        length = len(window.inputs)
        # Padding follows the text, and attention is causal, so its content has no effect.
        inputs[row, :length], targets[row, :length] = window.inputs, window.targets
        document[row, window.scored_from : length] = window.document
        place[row, :length] = window.start + np.arange(length)
    device = model.output_weight.device
    scored = document >= 0
    hidden = model(torch.from_numpy(inputs).to(device))[torch.from_numpy(scored).to(device)]
    gold = torch.from_numpy(targets[scored]).to(device)
    stats = ops.linear_token_stats(
        hidden, model.output_weight, gold, call_id=call_id, return_argmax=True, return_entropy=True
    )
    assert stats.z_c is not None and stats.argmax is not None and stats.entropy is not None  # noqa: PT018 (not a test)
    likeliest = (hidden.float() * model.output_weight[stats.argmax.long()].float()).sum(dim=-1)
    return {
        "document": document[scored],
        "place": place[scored],
        "gold": targets[scored],
        "predicted": stats.argmax.long().cpu().numpy(),
        "nats": stats.nll_excl.double().cpu().numpy(),
        "entropy": stats.entropy.double().cpu().numpy(),
        "margin": -torch.expm1((likeliest - stats.lse_x).double().clamp_max(0.0)).cpu().numpy(),
        "call": (stats.z_c - stats.lse_x).double().cpu().numpy(),
    }
