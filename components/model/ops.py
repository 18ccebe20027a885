"""The one place that chooses an implementation for the hot operations.

Today: PyTorch's scaled-dot-product attention, and a linear layer fused with cross-entropy that works in chunks of rows.
Callers pass what any implementation needs (document starts, not a dense mask), so that a kernel can come in here
without a change elsewhere. ``chosen()`` goes into the record of every training run.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kernels import cross_entropy as cross_entropy_kernel
from kernels.cross_entropy import TokenStats

# Fewer rows a chunk leave the matrix products too small (256 rows: twice the time); more only cost memory.
CHUNK_ROWS = 1024
# In bf16 on a CPU, attention as plain matrix products beats the flash kernel, which computes in fp32: 2.2x at 256 keys,
# even at 512. In fp32, and beyond, flash wins. `python -m benchmarks.training attention` measures it.
PRODUCTS_ATTENTION_KEYS = 384
# Above this the probabilities are not kept for backward but computed again, which costs a fourth matrix product.
KEPT_PROBABILITIES_BYTES = 2 * 2**30


def chosen() -> dict[str, str]:
    """Which implementation each operation uses, for the record of a run."""
    return {
        "attention": "torch scaled_dot_product_attention with a mask for documents; "
        f"bf16 on CPU up to {PRODUCTS_ATTENTION_KEYS} keys: plain matrix products",
        "linear_cross_entropy": f"torch, chunks of {CHUNK_ROWS} rows",
    }


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype matrix products with ``tensor`` are made in: autocast's if it is on, else the tensor's own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def attention_mask(document_start: Int[Tensor, "batch seq"], dtype: torch.dtype) -> Float[Tensor, "batch 1 seq seq"]:
    """The additive mask that ``attention`` needs for these documents; build it once and share it between layers.

    A boolean mask would be turned into this one again in every layer.
    """
    position = torch.arange(document_start.shape[1], device=document_start.device)
    causal = position[None, :] <= position[:, None]
    visible: Bool[Tensor, "batch 1 seq seq"] = (causal & (position >= document_start[:, :, None]))[:, None]
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def attention(
    query: Float[Tensor, "batch seq heads head"],
    key: Float[Tensor, "batch keys kv_heads head"],
    value: Float[Tensor, "batch keys kv_heads head"],
    document_start: Int[Tensor, "batch seq"] | None = None,
    mask: Float[Tensor, "batch 1 seq seq"] | None = None,
) -> Float[Tensor, "batch seq heads head"]:
    """Causal grouped-query attention; the queries are the last ``seq`` of the ``keys`` positions.

    Equals ``softmax(q @ k.T / sqrt(head) + mask) @ v`` with every key-value head repeated for its group of queries.

    Arguments:
        query, key, value: after rotary positions.
        document_start: index of the first token of each token's document; nothing before it is seen.
            Needs ``keys == seq``. ``None``: the whole row is one document.
        mask: ``attention_mask(document_start, ...)`` if the caller has it; built here otherwise.

    Returns: for every query head the mixed values, in the dtype of ``query``.
    """
    seq, keys = query.shape[1], key.shape[1]
    products = query.device.type == "cpu" and query.dtype == torch.bfloat16 and keys <= PRODUCTS_ATTENTION_KEYS
    if mask is None and document_start is not None:
        mask = attention_mask(document_start, query.dtype)
    if mask is None and seq > 1 and (products or seq < keys):
        # With a cache the corner of the triangle is bottom right; torch's is_causal puts it top left.
        one_document = torch.zeros(1, keys, dtype=torch.long, device=query.device)
        mask = attention_mask(one_document, query.dtype)[:, :, keys - seq :]
    if products and mask is not None:
        return _attention_by_products(query, key, value, mask)
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None and seq > 1,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2)


def _attention_by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    batch, seq, heads, head = query.shape
    keys, kv_heads = key.shape[1:3]
    group = heads // kv_heads
    # The queries of one group become rows of one product, so keys and values are never repeated.
    query = query.view(batch, seq, kv_heads, group, head).permute(0, 2, 3, 1, 4).reshape(-1, group * seq, head)
    key = key.permute(0, 2, 3, 1).reshape(-1, head, keys)
    value = value.transpose(1, 2).reshape(-1, keys, head)
    scores = torch.bmm(query * head**-0.5, key).view(batch, heads, seq, keys).add_(mask)
    mixed = torch.bmm(scores.softmax(dim=-1).view(-1, group * seq, keys), value)
    return mixed.view(batch, kv_heads, group, seq, head).permute(0, 3, 1, 2, 4).reshape(batch, seq, heads, head)


def linear_cross_entropy(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocab width"],
    targets: Int[Tensor, "rows"],
    ignore_index: int = -100,
) -> Float[Tensor, "rows"]:
    """Negative log-likelihood of every target, in nats and fp32, without ever holding all logits in fp32.

    Equals ``F.cross_entropy((hidden @ weight.T).float(), targets, reduction="none", ignore_index=ignore_index)``.
    Products are made in the autocast dtype if autocast is on, else in the dtype of ``hidden``; sums are fp32.
    Rows with ``ignore_index`` give exactly 0 and no gradient.
    """
    dtype = compute_dtype(hidden)
    result: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, ignore_index, dtype)  # type: ignore[no-untyped-call]
    return result


def linear_token_stats(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocab width"],
    targets: Int[Tensor, "*tokens"],
    *,
    call_id: int | None = None,
    ignore_index: int = -100,
    **options: Any,
) -> TokenStats:
    """``kernels.cross_entropy.linear_token_stats``: see there.

    What a loss that knows about ``<CALL>`` is made of: ``lse_x``, ``z_y`` and ``z_c`` of every token, differentiable.
    """
    return cross_entropy_kernel.linear_token_stats(
        hidden, weight, targets, call_id=call_id, ignore_index=ignore_index, **options
    )


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward keeps the probabilities in the compute dtype; backward turns them into logit gradients chunk by chunk.

    d nll / d logits = probabilities - onehot(target). The target's own entry is taken from the fp32 loss
    (exp(-nll) - 1), because a bf16 probability close to one leaves nothing after subtracting one.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        context: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignore_index: int,
        dtype: torch.dtype,
    ) -> Tensor:
        rows, vocab = hidden.shape[0], weight.shape[0]
        needed = any(context.needs_input_grad[:2])  # type: ignore[attr-defined]
        keep = needed and rows * vocab * dtype.itemsize <= KEPT_PROBABILITIES_BYTES
        narrow_hidden, narrow_weight = hidden.to(dtype), weight.to(dtype)
        kept = torch.empty(rows, vocab, dtype=dtype, device=hidden.device) if keep else None
        nll = torch.empty(rows, dtype=torch.float32, device=hidden.device)
        ignored = targets == ignore_index
        targets = targets.masked_fill(ignored, 0)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _chunks(rows):
                log_probabilities = _log_probabilities(narrow_hidden[chunk], narrow_weight)
                nll[chunk] = -log_probabilities.gather(1, targets[chunk, None])[:, 0]
                if kept is not None:
                    kept[chunk] = log_probabilities.exp_()
        nll.masked_fill_(ignored, 0.0)
        if needed:
            saved = (narrow_hidden, narrow_weight, targets, ignored, nll, *([kept] if kept is not None else []))
            context.save_for_backward(*saved)
            context.dtypes = hidden.dtype, weight.dtype  # type: ignore[attr-defined]
        return nll

    @staticmethod
    def backward(  # type: ignore[override]
        context: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, ignored, nll, *kept = context.saved_tensors  # type: ignore[attr-defined]
        hidden_dtype, weight_dtype = context.dtypes  # type: ignore[attr-defined]
        scale = upstream.float().masked_fill(ignored, 0.0)[:, None]
        at_target = scale * torch.expm1(-nll)[:, None]
        grad_hidden = torch.empty(hidden.shape, dtype=hidden_dtype, device=hidden.device)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _chunks(hidden.shape[0]):
                probabilities = kept[0][chunk] if kept else _log_probabilities(hidden[chunk], weight).exp_()
                grad = (probabilities * scale[chunk]).to(hidden.dtype)
                grad.scatter_(1, targets[chunk, None], at_target[chunk].to(hidden.dtype))
                grad_hidden[chunk] = grad @ weight
                grad_weight += grad.T @ hidden[chunk]
        return grad_hidden, grad_weight.to(weight_dtype), None, None, None


def _chunks(rows: int) -> list[slice]:
    return [slice(start, min(start + CHUNK_ROWS, rows)) for start in range(0, rows, CHUNK_ROWS)]


def _log_probabilities(hidden: Tensor, weight: Tensor) -> Tensor:
    return torch.log_softmax(hidden @ weight.T, dim=-1, dtype=torch.float32)
