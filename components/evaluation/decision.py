"""The rule of the gate: from two models' scores of the same documents to yes or no, and why.

The champion stays unless the difference is shown to be an improvement (or, with a margin, shown to be harmless). An
uncertain difference is refused, and so is a tie. A refusal says by how much it failed, and what to do.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np

from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import GateConfig
from components.evaluation.likelihood import DocumentScores

# Every byte at uniform probability costs 8 bits: a model above this knows less than no model at all.
WORTHLESS_BITS_PER_BYTE = 8.0


@dataclass(frozen=True)
class Decision:
    """The decision of the gate, in bits per byte. ``difference`` is challenger - champion; ``None``: unknown."""

    promote: bool
    reason: str
    documents: int
    challenger_bits_per_byte: float | None
    champion_bits_per_byte: float | None = None
    difference: float | None = None
    interval_low: float | None = None
    interval_high: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that are known."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}


def decide(challenger: DocumentScores, champion: DocumentScores | None, cfg: GateConfig) -> Decision:
    """Compare two models' scores of the same documents, in the same order; ``None``: there is no champion yet."""
    documents = len(challenger.nats)
    score = challenger.bits_per_byte
    if not np.isfinite(challenger.nats).all():
        broken = int((~np.isfinite(challenger.nats)).sum())
        reason = (
            f"the challenger gives no finite likelihood to {broken} of {documents} held-out documents: its training "
            "diverged or its weights are damaged. Train again with a lower trainer.learning_rate."
        )
        return Decision(False, reason, documents, None)
    if score > WORTHLESS_BITS_PER_BYTE:
        reason = (
            f"the challenger needs {score:.3f} bits per byte, more than the 8 of no model at all: its training "
            "diverged or it was trained on other text. Train again with a lower trainer.learning_rate or more steps."
        )
        return Decision(False, reason, documents, score)
    if champion is None:
        return Decision(True, f"first model, at {score:.3f} bits per byte: there is no champion yet", documents, score)
    assert np.array_equal(challenger.bytes, champion.bytes), "the two models were scored on different documents"
    if not np.isfinite(champion.nats).all():
        return Decision(True, "the champion gives no finite likelihood to the held-out documents", documents, score)
    return _compared(challenger, champion, cfg)


def _compared(challenger: DocumentScores, champion: DocumentScores, cfg: GateConfig) -> Decision:
    """Promote if even the worse end of the interval is below the margin."""
    documents, margin = len(challenger.nats), cfg.margin_bits_per_byte
    difference, low, high = ratio_interval(challenger.bits - champion.bits, challenger.bytes.astype(np.float64), cfg)
    numbers = (
        f"{cfg.confidence * 100:g} % interval {low:+.4f} to {high:+.4f}; {challenger.bits_per_byte:.4f} against "
        f"{champion.bits_per_byte:.4f} on {documents} held-out documents"
    )
    amount = f"{abs(difference):.4f} bits per byte"
    release_anyway = f"release.gate.margin_bits_per_byte above {math.ceil(high * 1e4) / 1e4:g}"
    promote = False
    if documents < cfg.min_documents:
        reason = (
            f"too few held-out documents to decide: {documents}, at least {cfg.min_documents} are needed ({numbers}). "
            "Prepare more data, raise release.gate.max_documents, or lower release.gate.min_documents."
        )
    elif high < margin:
        promote = True
        verdict = "better by" if difference < 0 else "worse, but within the margin, by"
        reason = f"the challenger is {verdict} {amount} ({numbers})"
    elif low > max(margin, 0.0):
        reason = (
            f"the challenger is worse by {amount} ({numbers}). Train it longer or on more text; "
            f"to release it all the same, set {release_anyway}."
        )
    else:
        reason = (
            f"the challenger is not shown to be {_required(margin)}: it differs by {difference:+.4f} bits per byte "
            f"({numbers}). Train it longer, compare on more documents (release.gate.max_documents, max_tokens), "
            f"or release it all the same with {release_anyway}."
        )
    return Decision(
        promote=promote,
        reason=reason,
        documents=documents,
        challenger_bits_per_byte=challenger.bits_per_byte,
        champion_bits_per_byte=champion.bits_per_byte,
        difference=difference,
        interval_low=low,
        interval_high=high,
    )


def _required(margin: float) -> str:
    if margin == 0:
        return "better"
    return f"better by {-margin:g}" if margin < 0 else f"at most {margin:g} worse"
