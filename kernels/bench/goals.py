"""The goals as data: what is compared with what, what must hold, what would be splendid.

A run prints one row for each, measured or not; the table in ``docs/guides/kernels.md`` is written from here.
Ratios compare two measurements of one process. ``speed-up`` is the baseline's time over ours.
"""

from dataclasses import dataclass
from typing import Literal

Kernel = Literal["cross_entropy", "attention", "end_to_end"]


@dataclass(frozen=True)
class Bound:
    """A limit on a value, and the side on which the value has to lie."""

    sign: Literal[">=", "<="]
    limit: float

    def holds(self, value: float) -> bool:
        """False for NaN, too."""
        return value >= self.limit if self.sign == ">=" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:,.10g}"


@dataclass(frozen=True)
class Goal:
    """One line of the goals page. ``name`` is its number there and, where it sets several limits, which of them."""

    name: str
    kernel: Kernel
    measure: str
    must: Bound
    stretch: Bound | None = None


def _at_least(must: float, stretch: float | None = None) -> tuple[Bound, Bound | None]:
    return Bound(">=", must), None if stretch is None else Bound(">=", stretch)


def _at_most(must: float, stretch: float | None = None) -> tuple[Bound, Bound | None]:
    return Bound("<=", must), None if stretch is None else Bound("<=", stretch)


_ALL = [
    Goal("C1 narrow", "cross_entropy", "time over three torch.mm alone, D 768 and 1024", *_at_most(1.40, 1.25)),
    Goal("C1 wide", "cross_entropy", "time over three torch.mm alone, D 2048", *_at_most(1.22, 1.12)),
    Goal("C2 narrow", "cross_entropy", "speed-up over eager F.cross_entropy, D 768 and 1024", *_at_least(1.6, 1.9)),
    Goal("C2 wide", "cross_entropy", "same, D 2048: the products are two thirds of eager's time", *_at_least(1.3, 1.4)),
    Goal("C2 memory", "cross_entropy", "peak extra memory, share of eager's", *_at_most(0.2, 0.125)),
    Goal("C3 save time", "cross_entropy", "SAVE: speed-up over compiled F.cross_entropy", *_at_least(1.0, 1.1)),
    Goal("C3 save memory", "cross_entropy", "SAVE: peak extra memory, share of compiled", *_at_most(1.05)),
    Goal("C3 recompute time", "cross_entropy", "RECOMPUTE: speed-up over compiled, 4 products to 3", *_at_least(0.7)),
    Goal("C3 recompute memory", "cross_entropy", "RECOMPUTE: peak extra memory, share of compiled", *_at_most(0.2)),
    Goal(
        "C4 liger", "cross_entropy", "mean loss: speed-up over Liger's fused linear cross-entropy", *_at_least(3, 4.5)
    ),
    Goal("C4 cce", "cross_entropy", "mean loss: speed-up over Apple's CCE, all gradients", *_at_least(1.3, 1.8)),
    Goal("C5 liger", "cross_entropy", "delegation loss: speed-up over Liger, reduction none", *_at_least(3, 5)),
    Goal("C5 compiled", "cross_entropy", "delegation loss: speed-up over compiled log-softmax", *_at_least(1.05, 1.3)),
    Goal("C6 forward", "cross_entropy", "logits given: bandwidth, share of a device copy's", *_at_least(0.80, 0.90)),
    Goal("C6 full", "cross_entropy", "same with backward", *_at_least(0.75, 0.90)),
    Goal("C7", "cross_entropy", "time with <CALL> statistics over time without", *_at_most(1.02, 1.005)),
    Goal("C8 loss", "cross_entropy", "relative error of the loss, same logits, against fp64", *_at_most(1e-6)),
    Goal("C8 gradient", "cross_entropy", "error against fp64, over torch bf16's error", *_at_most(1.5)),
    Goal("A1", "attention", "forward, T >= 2048: speed-up over SDPA flash", *_at_least(1.05, 1.3)),
    Goal("A2", "attention", "backward: speed-up over SDPA flash", *_at_least(0.9, 1.15)),
    Goal("A3 flash", "attention", "forward and backward: speed-up over SDPA flash", *_at_least(1.0, 1.2)),
    Goal("A3 cudnn", "attention", "forward and backward: speed-up over SDPA cuDNN", *_at_least(0.65, 0.8)),
    Goal("A3 flash3", "attention", "forward and backward: speed-up over FlashAttention-3", *_at_least(0.6, 0.75)),
    Goal("A3 flex", "attention", "forward and backward: speed-up over compiled FlexAttention", *_at_least(1.0, 1.2)),
    Goal("A4", "attention", "documents: speed-up over compiled FlexAttention, mask / 12", *_at_least(1.1, 1.4)),
    Goal("A5", "attention", "documents: speed-up over varlen_attn", *_at_least(1.0, 1.25)),
    Goal("A5 flash3", "attention", "documents: speed-up over FlashAttention-3, varlen", *_at_least(0.6, 0.75)),
    Goal("A6 equal", "attention", "T 8192, documents of 1024: speed-up over our causal", *_at_least(5, 6.5)),
    Goal("A6 random", "attention", "T 8192, exponential, mean 1024: speed-up over our causal", *_at_least(2.8, 3.5)),
    Goal("A7 forward", "attention", "largest error against fp64, over SDPA flash's", *_at_most(2.0, 1.2)),
    Goal("A7 gradients", "attention", "largest error against fp64, over SDPA flash's", *_at_most(2.0, 1.2)),
    Goal("A8", "attention", "elements that differ between two runs", *_at_most(0)),
    Goal("A9", "attention", "peak extra memory over SDPA flash's", *_at_most(1.05)),
    Goal("E1", "end_to_end", "124M, T 1024: thousand tokens a second", *_at_least(400, 475)),
    Goal("E2", "end_to_end", "1B: MFU in % of 989.5 TFLOP/s", *_at_least(48, 52)),
    Goal("E3 speed", "end_to_end", "124M: tokens a second over SDPA and eager F.cross_entropy", *_at_least(1.03, 1.10)),
    Goal(
        "E3 compiled",
        "end_to_end",
        "124M: tokens a second over SDPA and compiled F.cross_entropy",
        *_at_least(0.99, 1.03),
    ),
    Goal("E3 memory", "end_to_end", "124M: largest micro-batch over SDPA and eager F.cross_entropy", *_at_least(1.3)),
    Goal("E4", "end_to_end", "124M, packed documents: tokens a second over SDPA's mask", *_at_least(1.5, 2.5)),
    Goal("E5", "end_to_end", "Lightning Trainer: tokens a second over a plain loop", *_at_least(0.985, 0.995)),
    Goal("E6", "end_to_end", "Lightning Trainer: CUDA syncs a step beyond the plain loop", *_at_most(0)),
    Goal("E7 breaks", "end_to_end", "graph breaks in the compiled forward", *_at_most(0)),
    Goal("E7 recompiles", "end_to_end", "recompiles after step 3", *_at_most(0)),
]
GOALS: dict[str, Goal] = {goal.name: goal for goal in _ALL}
