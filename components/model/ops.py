"""The one place that chooses an implementation for the hot operations.

Attention goes to our Triton kernel, to loops that Numba compiles, to PyTorch's scaled-dot-product attention (SDPA) or
to plain matrix products, the output layer with its loss to our Triton rows or the same on PyTorch. Callers pass what
any of them needs (where documents start, not a dense mask). The choice, for calls that leave it to us:

- CPU, fp32, and bf16 where nothing multiplies it faster: compiled loops (``compiled/attention.py``).
- CPU, bf16 with Intel's matrix units (AMX): matrix products in blocks (``block_attention.py``), beyond 1,024 tokens
  SDPA's flash kernel; other dtypes: SDPA. Never Triton, whose interpreter is for tests.
- CUDA: what ``kernel_choice.json`` has measured as fastest for the GPU, dtype, head dimension and length; without a
  measurement Triton for packed documents, which it skips where SDPA masks them, and SDPA for plain rows.
- fp32, GPUs before compute capability 8.0, other head dimensions than 64 and 128, fewer than 128 tokens: SDPA.
- Decoding with a cache: SDPA, whatever is asked for; no kernel of ours takes fewer queries than keys.

``LACEWING_KERNELS=torch`` or ``triton`` (or ``kernels.dispatch.using``) decides instead; what cannot be had then is an
``InputError``, never another path in silence. ``chosen(...)`` says beforehand what a run will take and ``recorded()``
what it took; both go by the very function that the operations call. Nothing here imports triton before a kernel runs.
"""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from components.core.errors import InputError
from components.model.block_attention import BLOCK_QUERIES, block_attention
from components.model.compiled.attention import compiled_attention
from kernels import attention as attention_kernel
from kernels import cross_entropy as cross_entropy_kernel
from kernels.attention.arguments import missing_kernel
from kernels.cross_entropy import TokenStats
from kernels.dispatch import VARIABLE, constant_when_compiled, requested, resolved
from kernels.documents import doc_end_of

AttentionPath = Literal["triton", "compiled", "sdpa", "sdpa_flash", "sdpa_cudnn", "products"]
"""``compiled`` are loops of Numba's; ``sdpa`` leaves the backend to PyTorch, ``sdpa_...`` asks for one; ``products``
are plain matrix products."""
LossPath = Literal["torch", "triton"]
Taken = dict[str, set[str]]

TABLE = Path(__file__).with_name("kernel_choice.json")
# Rows of up to so many tokens are told apart; the table has no other lengths.
BUCKETS = (1, 127, 1024, 2048, 4096, 8192)
# Where the kernel is worth its launch; shorter rows and other heads go to SDPA, unless Triton is asked for by name.
WORTHWHILE_TOKENS = 128
WORTHWHILE_HEAD_DIMS = (64, 128)
# torch's flash kernel for CPUs gains little from causality. Queries in blocks, each with the keys up to its own end,
# leave out most of what is masked anyway.
CPU_BLOCK_QUERIES = 256
# On a CPU, matrix products in blocks take half the time of the flash kernel. They keep what flash does not, the
# probabilities of every block: beyond this many keys that is too much memory.
PRODUCTS_ATTENTION_KEYS = 1024

_Path = TypeVar("_Path", bound=str)
_taken: ContextVar[Taken | None] = ContextVar("lacewing_taken", default=None)


class Documents(NamedTuple):
    """Packed documents as attention needs them, made once per forward pass and shared by all layers."""

    start: Int[Tensor, "batch seq"]
    """Index of the first token of each token's document, int32."""
    end: Int[Tensor, "batch seq"]
    """Index after its last token, int32."""
    mask: Float[Tensor, "batch 1 seq seq"] | None
    """The same as an additive mask, where the chosen path needs one."""


def chosen(device: torch.device, dtype: torch.dtype, head_dim: int, seq: int, documents: bool = True) -> dict[str, str]:
    """Which implementation each operation will use for such tensors, in words for people and records.

    Arguments: those of the queries that will come, and whether documents are packed.

    Raises ``InputError`` if ``LACEWING_KERNELS`` holds another word than auto, torch or triton, or names one that
    cannot run here.
    """
    attention_path = _attention_path(device, dtype, head_dim, _bucket(seq), documents)
    return described({"attention": {attention_path}, "linear_cross_entropy": {_loss_path(device)}})


def described(taken: Taken) -> dict[str, str]:
    """Paths in words, by operation."""
    return {
        operation: "; ".join(_WORDS[operation][path] for path in sorted(paths)) for operation, paths in taken.items()
    }


@contextmanager
def recorded() -> Iterator[Taken]:
    """Collects, by operation, the paths that calls within the block really take.

    A compiled model chooses while it is traced: a block that never traces, because another has, records nothing.
    """
    taken: Taken = {}
    token = _taken.set(taken)
    try:
        yield taken
    finally:
        _taken.reset(token)


_MASKED = ("sdpa", "sdpa_flash", "sdpa_cudnn", "products")
"""Paths that want to know where documents start as a mask."""
_WORDS: dict[str, dict[str, str]] = {
    "attention": {
        "triton": "Triton kernel",
        "compiled": "loops compiled by Numba",
        "sdpa": "torch SDPA",
        "sdpa_flash": "torch SDPA, flash",
        "sdpa_cudnn": "torch SDPA, cuDNN",
        "products": "torch matrix products",
    },
    "linear_cross_entropy": {"torch": "torch, in chunks", "triton": "torch products, Triton rows"},
}


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype matrix products with ``tensor`` are made in: autocast's if it is on, else the tensor's own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


# ---- Attention


def packed(document_start: Int[Tensor, "batch seq"], dtype: torch.dtype, head_dim: int) -> Documents:
    """What ``attention`` needs to keep packed documents apart.

    Arguments:
        document_start: index of the first token of each token's document; nothing before it is seen.
        dtype, head_dim: of the queries that will come.
    """
    path = _attention_path(document_start.device, dtype, head_dim, _bucket(document_start.shape[1]), True)
    start = document_start.to(torch.int32)
    return Documents(start, doc_end_of(start), attention_mask(start, dtype) if path in _MASKED else None)


def attention_mask(document_start: Int[Tensor, "batch seq"], dtype: torch.dtype) -> Float[Tensor, "batch 1 seq seq"]:
    """The additive mask for these documents. (A boolean one would be turned into this again in every layer.)"""
    position = torch.arange(document_start.shape[1], device=document_start.device)
    causal = position[None, :] <= position[:, None]
    visible: Bool[Tensor, "batch 1 seq seq"] = (causal & (position >= document_start[:, :, None]))[:, None]
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def attention(
    query: Float[Tensor, "batch seq heads head"],
    key: Float[Tensor, "batch keys kv_heads head"],
    value: Float[Tensor, "batch keys kv_heads head"],
    documents: Documents | None = None,
    mask: Float[Tensor, "batch 1 seq keys"] | None = None,
) -> Float[Tensor, "batch seq heads head"]:
    """Causal grouped-query attention; the queries are the last ``seq`` of the ``keys`` positions.

    Equals ``softmax(q @ k.T / sqrt(head) + mask) @ v`` with every key-value head repeated for its group of queries.

    Arguments:
        query, key, value: after rotary positions.
        documents: ``packed(...)`` for these rows, which needs ``keys == seq``. ``None``: every row is one document.
        mask: what each query sees, added to its scores, where rows of a cache have different lengths.

    Returns: for every query head the mixed values, in the dtype of ``query``.
    """
    seq, keys = query.shape[1], key.shape[1]
    if seq < keys or mask is not None:  # a cache: few queries, and no kernel of ours for them
        return _with_cache(query, key, value, mask)
    path = _attention_path(query.device, query.dtype, query.shape[3], _bucket(seq), documents is not None)
    if path == "triton":
        start, end = (documents.start, documents.end) if documents is not None else (None, None)
        return attention_kernel.attention(query, key, value, start, end, impl="triton")
    if path == "compiled":
        start = _one_document(seq) if documents is None else documents.start
        return compiled_attention(query.float(), key.float(), value.float(), start).to(query.dtype)
    mask = documents.mask if documents is not None else None
    if documents is not None and mask is None:  # ``using`` has changed the path since they were packed
        mask = attention_mask(documents.start, query.dtype)
    if query.device.type == "cpu":
        return (_by_blocks if path == "products" else _sdpa_in_blocks)(query, key, value, documents, mask)
    if mask is None:
        with _backend(path):
            return _sdpa(query, key, value)
    if query.shape[2] != key.shape[2]:
        # No fused kernel of CUDA's takes both a mask and grouped queries; the unfused one holds all scores at once.
        group = query.shape[2] // key.shape[2]
        key, value = key.repeat_interleave(group, dim=2), value.repeat_interleave(group, dim=2)
    return _sdpa(query, key, value, mask)


def _one_document(seq: int) -> Int[Tensor, "1 seq"]:
    return torch.zeros(1, seq, dtype=torch.int32)


def _by_blocks(query: Tensor, key: Tensor, value: Tensor, documents: Documents | None, mask: Tensor | None) -> Tensor:
    if query.shape[1] == 1:
        return _sdpa(query, key, value)
    start = _one_document(query.shape[1]) if documents is None else documents.start
    mask = attention_mask(start, query.dtype) if mask is None else mask
    return block_attention(query, key, value, start, mask)


def _sdpa_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None, mask: Tensor | None
) -> Tensor:
    seq = query.shape[1]
    blocks = -(-seq // CPU_BLOCK_QUERIES)
    if mask is None:
        if blocks == 1:
            return _sdpa(query, key, value)
        mask = attention_mask(_one_document(seq), query.dtype)
    size = -(-seq // blocks)
    mixed = []
    for begin in range(0, seq, size):
        end = min(begin + size, seq)
        mixed.append(_sdpa(query[:, begin:end], key[:, :end], value[:, :end], mask[:, :, begin:end, :end]))
    return torch.cat(mixed, dim=1)


def _with_cache(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    seq, keys = query.shape[1], key.shape[1]
    if mask is None:
        if seq == 1:
            return _sdpa(query, key, value)
        # The corner of the triangle is bottom right; torch's is_causal puts it top left.
        one_document = torch.zeros(1, keys, dtype=torch.int32, device=query.device)
        mask = attention_mask(one_document, query.dtype)[:, :, keys - seq :]
    products = query.device.type == "cpu" and query.dtype == torch.bfloat16 and keys <= PRODUCTS_ATTENTION_KEYS
    return (_by_products if products else _sdpa)(query, key, value, mask)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None and query.shape[1] > 1,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2)


def _backend(path: AttentionPath) -> AbstractContextManager[Any]:
    if path == "sdpa_flash":
        return sdpa_kernel(SDPBackend.FLASH_ATTENTION)  # where it cannot run, torch says so: no slower one in silence
    if path == "sdpa_cudnn":
        return sdpa_kernel(SDPBackend.CUDNN_ATTENTION)
    return nullcontext()


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
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


# ---- Output layer and loss


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
    return linear_token_stats(hidden, weight, targets, ignore_index=ignore_index).nll_full


def linear_token_stats(
    hidden: Float[Tensor, "*tokens width"],
    weight: Float[Tensor, "vocab width"],
    targets: Int[Tensor, "*tokens"],
    *,
    call_id: int | None = None,
    chosen: Int[Tensor, "*tokens k"] | None = None,
    ignore_index: int = -100,
    **options: Any,
) -> TokenStats:
    """``kernels.cross_entropy.linear_token_stats`` by the implementation chosen here: see there.

    What a loss that knows about ``<CALL>`` is made of: ``lse_x``, ``z_y`` and ``z_c`` of every token, differentiable;
    and what one that learns from a teacher needs besides, the logits at the tokens ``chosen``.
    """
    path = _loss_path(hidden.device)
    return cross_entropy_kernel.linear_token_stats(
        hidden, weight, targets, call_id=call_id, chosen=chosen, ignore_index=ignore_index, impl=path, **options
    )


# ---- Choice


@constant_when_compiled
def _attention_path(
    device: torch.device, dtype: torch.dtype, head_dim: int, bucket: int, documents: bool
) -> AttentionPath:
    path = _torch_path(device, dtype, head_dim, bucket, documents)
    if _implementation(device, missing_kernel(device, dtype, head_dim)) == "triton":
        fit = dtype != torch.float32 and head_dim in WORTHWHILE_HEAD_DIMS and bucket >= WORTHWHILE_TOKENS
        if requested() == "triton":
            path = "triton"
        elif fit:
            path = _measured(device, dtype, head_dim, bucket, documents) or ("triton" if documents else "sdpa")
    elif device.type == "cpu" and requested() == "auto" and _worth_compiling(dtype):
        path = "compiled"
    return _noted("attention", path)


def _worth_compiling(dtype: torch.dtype) -> bool:
    """The loops compute in fp32: half of the time of torch's products in bf16, where a CPU has no units for these."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and not _has_amx())


@cache
def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _torch_path(device: torch.device, dtype: torch.dtype, head_dim: int, bucket: int, documents: bool) -> AttentionPath:
    if device.type == "cpu":
        return "products" if dtype in BLOCK_QUERIES and bucket <= PRODUCTS_ATTENTION_KEYS else "sdpa"
    path = _measured(device, dtype, head_dim, bucket, documents) if device.type == "cuda" else None
    return "sdpa" if path is None or path == "triton" else path


def _measured(
    device: torch.device, dtype: torch.dtype, head_dim: int, bucket: int, documents: bool
) -> AttentionPath | None:
    """The table's row for such a call, if it has one."""
    generation = "sm{}{}".format(*torch.cuda.get_device_capability(device))
    kinds = _table().get(generation, {}).get(str(dtype).removeprefix("torch."), {}).get(str(head_dim), {})
    rows = kinds.get("documents" if documents else "plain", {})
    lengths = sorted(map(int, rows))
    length = next((tokens for tokens in lengths if bucket <= tokens), lengths[-1] if lengths else None)
    return None if length is None else rows[str(length)]


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


def _bucket(seq: int) -> int:
    """The smallest of ``BUCKETS`` that is not below ``seq``. Comparisons only: a compiler may not know ``seq`` yet."""
    for tokens in BUCKETS:
        if seq <= tokens:
            return tokens
    return 2 * BUCKETS[-1]


@constant_when_compiled
def _loss_path(device: torch.device) -> LossPath:
    return _noted("linear_cross_entropy", _implementation(device))


def _implementation(device: torch.device, obstacle: str | None = None) -> Literal["torch", "triton"]:
    try:
        return resolved(None, device, obstacle)
    except ValueError as error:
        message = str(error)
        raise InputError(message if VARIABLE in message else f"{VARIABLE}={requested()}: {message}") from error


def _noted(operation: str, path: _Path) -> _Path:
    taken = _taken.get()
    if taken is not None:
        taken.setdefault(operation, set()).add(path)
    return path
