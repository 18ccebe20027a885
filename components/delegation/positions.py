"""Scores of a model at every position of held-out text, and the calibration that follows from them.

Each document is read as an answer would be written: from its boundary token, up to the length of the context. The rest
of a longer document is left out, because no answer is that long.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float

from components.cascade.calibration import CallCalibration, ReliabilityBin, quantiles_of
from components.cascade.call_rule import RunningQuantile
from components.cascade.call_scores import call_probability, call_score
from components.data.shards import Split
from components.labelling.labels import FactBits
from components.model.transformer import Transformer
from components.training.loader import TokenColumn

BUDGETS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8, 1.0)
_SHUFFLE_SEED = 0
_CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Positions:
    """One entry for each scored position, in the order of documents and of text."""

    call: Float[np.ndarray, " positions"]
    """P(CALL)."""
    entropy: Float[np.ndarray, " positions"]
    """Nats of the prediction without CALL."""
    margin: Float[np.ndarray, " positions"]
    """One minus the largest probability without CALL."""
    logit_margin: Float[np.ndarray, " positions"]
    """Logit of CALL less the largest other logit."""
    wrong: Bool[np.ndarray, " positions"]
    """The likeliest token without CALL is not the one that follows."""
    factual: Bool[np.ndarray, " positions"]
    """The token that follows states a fact."""
    second_half: Bool[np.ndarray, " positions"]
    """Of the documents: what is learned on the first half is checked on the second."""

    def __len__(self) -> int:
        return len(self.call)


@torch.inference_mode()
def score_positions(
    model: Transformer,
    split: Split,
    facts: FactBits,
    boundary_id: int,
    call_id: int,
    max_tokens: int = 100_000,
    batch_tokens: int = 8192,
    report: Callable[[float], None] = lambda fraction: None,
    only: TokenColumn | None = None,
) -> Positions:
    """Read documents of ``split``, in a fixed shuffled order, until ``max_tokens`` positions have been seen.

    On the model's device, under the autocast that the caller has set. Whole documents only, and at least one.
    ``only``: bits of the tokens whose positions count; all if not given.
    """
    chosen = _chosen(split, model.config.context_length, max_tokens)
    looked: dict[int, Positions] = {}
    for batch in _batches(split, chosen, model.config.context_length, batch_tokens):
        rows = [_row(split, document, boundary_id, model.config.context_length) for document in batch]
        seq = max(len(inputs) for inputs, _ in rows)
        # Padding follows the text, and attention is causal, so its content has no effect.
        padded = np.zeros((len(rows), seq), dtype=np.int64)
        for row, (inputs, _) in zip(padded, rows, strict=True):
            row[: len(inputs)] = inputs
        hidden = model(torch.from_numpy(padded).to(model.output_weight.device))
        for at, (document, (_, targets)) in enumerate(zip(batch, rows, strict=True)):
            start = int(split.documents[document, 0])
            factual = facts.slice(split.name, start, start + len(targets))
            kept = slice(None) if only is None else only.slice(split.name, start, start + len(targets))
            looked[document] = _positions(
                model,
                hidden[at, : len(targets)][kept],
                torch.from_numpy(targets)[kept],
                factual[kept],
                call_id,
                second_half=document in chosen[len(chosen) // 2 :],
            )
        report(len(looked) / len(chosen))
    return _joined([looked[document] for document in chosen])


def calibrated(positions: Positions, bins: int = 10, normalisation: str = "unknown") -> CallCalibration:
    """The record for ``calibration.json``."""
    classes = {
        "factual_wrong": positions.factual & positions.wrong,
        "factual_right": positions.factual & ~positions.wrong,
        "other_wrong": ~positions.factual & positions.wrong,
        "other_right": ~positions.factual & ~positions.wrong,
    }
    return CallCalibration(
        quantiles=quantiles_of(positions.call),
        tokens=len(positions),
        normalisation=normalisation,
        factual=bool(positions.factual.any()),
        mean_call_probability={
            name: float(positions.call[members].mean()) for name, members in classes.items() if members.any()
        },
        reliability=_reliability(positions, bins),
        expected_vs_realised=_realised(positions, _fixed_share),
        running_realised=_realised(positions, _running_share),
        post_hoc={
            "entropy": quantiles_of(positions.entropy),
            "margin": quantiles_of(positions.margin),
            "logit_margin": quantiles_of(positions.logit_margin),
        },
    )


def _chosen(split: Split, context: int, max_tokens: int) -> list[int]:
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(split.n_documents)
    seen = np.cumsum(np.minimum(split.documents[order, 1] + 1, context))
    within = int(np.searchsorted(seen, max_tokens, side="right"))
    return [int(document) for document in order[: max(1, within)]]


def _batches(split: Split, chosen: Sequence[int], context: int, batch_tokens: int) -> Iterator[list[int]]:
    """Documents of like length together, the longest first: what needs most memory comes at once, not at the end."""
    batch: list[int] = []
    longest = 0
    for document in sorted(chosen, key=lambda document: -int(split.documents[document, 1])):
        if batch and (len(batch) + 1) * longest > batch_tokens:
            yield batch
            batch = []
        if not batch:
            longest = min(int(split.documents[document, 1]) + 1, context)
        batch.append(document)
    yield batch


def _row(split: Split, document: int, boundary_id: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of one document, its ending included where the context reaches it."""
    ids = split.document(document).astype(np.int64)
    row = np.concatenate(([boundary_id], ids, [boundary_id]))
    return row[:-1][:context], row[1:][:context]


def _positions(
    model: Transformer,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    factual: Bool[np.ndarray, " positions"],
    call_id: int,
    second_half: bool,
) -> Positions:
    parts: list[torch.Tensor] = []
    # In fp32, as at inference: bf16 logits would leave few different scores, and the quantiles would be steps.
    with torch.autocast(hidden.device.type, enabled=False):
        weight = model.output_weight.float()
        for start in range(0, max(1, len(targets)), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            logits = hidden[rows].float() @ weight.T
            call = call_probability(logits, call_id)
            entropy, margin = call_score(logits, call_id, "entropy"), call_score(logits, call_id, "margin")
            logit_margin = call_score(logits, call_id, "logit_margin")
            logits[:, call_id] = float("-inf")
            wrong = logits.argmax(dim=-1) != targets[rows].to(logits.device)
            parts.append(torch.stack((call, entropy, margin, logit_margin, wrong.double())).cpu())
    call_of, entropy_of, margin_of, logit_margin_of, wrong_of = torch.cat(parts, dim=1).numpy()
    return Positions(
        call_of,
        entropy_of,
        margin_of,
        logit_margin_of,
        wrong_of.astype(np.bool_),
        factual,
        np.full(len(targets), second_half),
    )


def _joined(parts: Sequence[Positions]) -> Positions:
    return Positions(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Positions)),
    )


def _reliability(positions: Positions, bins: int) -> list[ReliabilityBin]:
    edges = np.linspace(0.0, 1.0, bins + 1)
    number = np.clip(np.digitize(positions.call, edges) - 1, 0, bins - 1)
    return [
        ReliabilityBin(
            low=float(edges[at]),
            high=float(edges[at + 1]),
            mean=float(positions.call[number == at].mean()),
            wrong=float(positions.wrong[number == at].mean()),
            count=int((number == at).sum()),
        )
        for at in range(bins)
        if (number == at).any()
    ]


def _realised(
    positions: Positions, share: Callable[[float, list[float], Float[np.ndarray, " positions"]], float]
) -> list[tuple[float, float]]:
    """What each budget becomes on the second half with the quantiles of the first; none for a single document."""
    first, second = positions.call[~positions.second_half], positions.call[positions.second_half]
    if not len(first):
        return []
    quantiles = quantiles_of(first)
    return [(budget, share(budget, quantiles, second)) for budget in BUDGETS]


def _fixed_share(budget: float, quantiles: list[float], scores: Float[np.ndarray, " positions"]) -> float:
    threshold = CallCalibration(quantiles=quantiles, tokens=0, factual=True).threshold(budget)
    return float((scores > threshold).mean())


def _running_share(budget: float, quantiles: list[float], scores: Float[np.ndarray, " positions"]) -> float:
    rule = RunningQuantile(budget, quantiles)
    for score in scores.tolist():
        rule.record(score, rule.wants(score))
    return rule.calls / rule.decisions
