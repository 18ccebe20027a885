"""What each goal should come to on one H200, by arithmetic and published figures, so that a surprise shows.

Nothing here is measured by us. A loss is its matrix products at the rate that torch.mm reaches, and beside them the
bytes of logits that go through memory at the rate of a copy. Attention is FLOPs over published rates of H100 and H200
(FlashAttention-3's figures and tables, and Triton's of the same time), read off as TFLOP/s for causal attention.
"""

from __future__ import annotations

from typing import Literal

from kernels.bench.shapes import AttentionShape, LossShape

PRODUCT_TFLOPS = 790.0  # bf16, 8192^3, random data
COPY_TB_S = 4.3  # read and written bytes together
TRITON_PRODUCT_TFLOPS = 440.0  # linear cross-entropy wholly in Triton: 375 to 510 (Liger, H200)

LossWay = Literal["save", "recompute", "eager", "compiled", "delegating", "compiled_delegating", "liger", "cce"]
# Bytes of each logit that go through memory outside of the products. eager: to fp32 (6), log-softmax (8), backward:
# zeros (4), log-softmax (12), to bf16 (6). compiled: two readings forward, of which the second is nearly always in the
# cache, one reading and one writing backward. Two log-softmaxes read once more each way.
LOGIT_BYTES = {"save": 6, "delegating": 6, "recompute": 6, "eager": 36, "compiled": 7, "compiled_delegating": 11}
# Bytes of each logit that are held at the peak, beyond inputs and gradients. The compiled loss writes the gradient over
# the logits that it saved, as SAVE does.
PEAK_BYTES = {"save": 2, "eager": 16, "compiled": 2}
# Over eager: 5 at D 768 (pytorch #124480), 1.1 to 2.2 at D 4096 (Liger's own table).
LIGER_OVER_EAGER = 2.5

AttentionWay = Literal["ours", "sdpa_flash", "sdpa_cudnn", "flash3", "flex", "varlen"]
# TFLOP/s of causal attention at 1024, 2048, 4096, 8192 tokens: forward, backward. Backward of cuDNN and
# FlashAttention-3 is published without causality; 0.85 of it is taken. Ours: Triton's forward, 0.65 of
# FlashAttention-3's backward. FlexAttention is near FlashAttention-2.
LENGTHS = (1024, 2048, 4096, 8192)
RATES: dict[str, dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "ours": {64: ((291, 342, 363, 376), (200, 233, 250, 261)), 128: ((273, 323, 353, 369), (234, 277, 299, 309))},
    "sdpa_flash": {64: ((229, 262, 284, 295), (181, 221, 248, 265)), 128: ((260, 298, 319, 333), (208, 253, 285, 298))},
    "sdpa_cudnn": {64: ((288, 334, 363, 379), (294, 336, 354, 367)), 128: ((410, 484, 518, 529), (347, 395, 424, 440))},
    "flash3": {64: ((265, 371, 420, 460), (308, 359, 385, 401)), 128: ((423, 521, 579, 602), (360, 426, 461, 475))},
    "flex": {64: ((250, 290, 312, 325), (163, 199, 223, 238)), 128: ((286, 328, 351, 366), (187, 228, 256, 268))},
}
MASK_MILLISECONDS = 0.2  # of a compiled block mask, a twelfth: 24 ms for a step of Qwen3 on an H200 are the worst known


def loss_milliseconds(shape: LossShape, way: LossWay) -> float:
    """Forward and backward of the output layer and its loss."""
    products = 2 * shape.rows * shape.width * shape.padded / 1e9
    if way == "cce":  # four products, all in Triton; logits never leave the chip
        return 4 * products / TRITON_PRODUCT_TFLOPS
    if way == "liger":
        return LIGER_OVER_EAGER * loss_milliseconds(shape, "eager")
    passes = LOGIT_BYTES[way] * shape.rows * shape.padded / COPY_TB_S / 1e9
    return (4 if way == "recompute" else 3) * products / PRODUCT_TFLOPS + passes


def product_milliseconds(shape: LossShape) -> float:
    """Three products of the output layer, alone."""
    return 6 * shape.rows * shape.width * shape.padded / 1e9 / PRODUCT_TFLOPS


def loss_speed_up(shape: LossShape, ours: LossWay, baseline: LossWay) -> float:
    return loss_milliseconds(shape, baseline) / loss_milliseconds(shape, ours)


def loss_memory(ours: str, baseline: str) -> float:
    """Ours over the baseline's, at the peak."""
    return PEAK_BYTES[ours] / PEAK_BYTES[baseline]


def attention_milliseconds(shape: AttentionShape, way: AttentionWay, mode: str) -> float:
    """Causal attention of whole rows: forward, backward or full."""
    forward, backward = (_at(rates, shape.seq) for rates in RATES[way][shape.head_dim])
    times = {"forward": shape.forward_flops / forward / 1e9, "backward": 2.5 * shape.forward_flops / backward / 1e9}
    return times["forward"] + times["backward"] if mode == "full" else times[mode]


def attention_speed_up(shape: AttentionShape, baseline: AttentionWay, mode: str) -> float | None:
    """Of ours over a baseline; ``None`` for head dimensions without published figures."""
    if shape.head_dim not in RATES["ours"]:
        return None
    return attention_milliseconds(shape, baseline, mode) / attention_milliseconds(shape, "ours", mode)


def documents_speed_up(shape: AttentionShape, baseline: AttentionWay) -> float | None:
    """The same for packed documents. All skip what lies between documents; FlexAttention also makes a mask."""
    if shape.head_dim not in RATES["ours"] or not shape.mean_document:
        return None
    skipped = 1 / skipping_speed_up(shape)
    ours = skipped * attention_milliseconds(shape, "ours", "full")
    theirs = skipped * attention_milliseconds(shape, "sdpa_flash" if baseline == "varlen" else baseline, "full")
    return (theirs + (MASK_MILLISECONDS if baseline == "flex" else 0.0)) / ours


def skipping_speed_up(shape: AttentionShape, tile: int = 128) -> float:
    """Causal tiles of a row over the tiles of its documents; exponential lengths cost twice as much as equal ones."""
    assert shape.mean_document
    tiles, of_document = shape.seq / tile, shape.mean_document / tile
    equal = (tiles + 1) / (of_document + 1)
    return equal if shape.equal_documents else (tiles + 1) / (2 * of_document + 1)


def _at(rates: tuple[int, ...], seq: int) -> float:
    return float(rates[next((place for place, length in enumerate(LENGTHS) if seq <= length), -1)])
