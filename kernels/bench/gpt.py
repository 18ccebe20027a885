"""A plain GPT in one file, so that kernels can be measured and tested in a training step without the rest of Lacewing.

Attention and loss are handed in; all else is PyTorch: pre-norm, learned positions, GELU, tied embeddings, the shape of
GPT-2. FLOPs a token are ``6 parameters + 12 layers width context`` (PaLM, appendix B): attention is counted in full, as
nanoGPT and llm.c do, so that numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.attention import attention
from kernels.bench.attention import document_mask
from kernels.bench.shapes import AttentionShape
from kernels.cross_entropy import linear_token_stats


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    layers: int
    width: int
    heads: int
    vocab: int
    context: int

    @property
    def parameters(self) -> int:
        block = 12 * self.width**2 + 2 * self.width
        return self.layers * block + (self.vocab + self.context + 1) * self.width

    @property
    def flops_per_token(self) -> float:
        return 6.0 * self.parameters + 12.0 * self.layers * self.width * self.context


class Text(Protocol):
    """What a batch of synthetic text depends on."""

    @property
    def vocab(self) -> int: ...

    @property
    def context(self) -> int: ...


WORDS = 512  # that synthetic text has
TINY = Shape(layers=1, width=16, heads=1, vocab=64, context=32)
GPT_124M = Shape(layers=12, width=768, heads=12, vocab=50304, context=1024)
GPT_1B = Shape(layers=20, width=2048, heads=16, vocab=50304, context=2048)


@dataclass(frozen=True)
class Batch:
    """``doc_start`` and ``doc_end`` are None where each row is one document."""

    tokens: Tensor
    targets: Tensor
    doc_start: Tensor | None = None
    doc_end: Tensor | None = None


@dataclass(frozen=True)
class Parts:
    """What is compared: ``attention(q, k, v, doc_start, doc_end, mask)`` and ``loss(hidden, weight, targets)``.

    ``masked``: attention wants the dense mask, made once a step.
    """

    attention: Callable[..., Tensor]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    masked: bool = False


def our_parts(impl: str) -> Parts:
    """Both kernels."""

    def attend(
        query: Tensor, key: Tensor, value: Tensor, start: Tensor | None, end: Tensor | None, _: object
    ) -> Tensor:
        return attention(query, key, value, start, end, impl=impl)  # type: ignore[arg-type]

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return linear_token_stats(hidden, weight, targets, impl=impl).nll_full.mean()  # type: ignore[arg-type]

    return Parts(attend, loss)


def torch_parts() -> Parts:
    """What PyTorch brings: SDPA, causal or with the dense mask of the documents, and F.cross_entropy on fp32 logits."""

    def attend(query: Tensor, key: Tensor, value: Tensor, start: object, end: object, mask: Tensor | None) -> Tensor:
        query, key, value = (one.transpose(1, 2) for one in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None).transpose(1, 2)

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, weight).flatten(0, 1).float(), targets.flatten())

    return Parts(attend, loss, masked=True)


class GPT(nn.Module):
    """``forward`` gives the mean loss of a batch."""

    def __init__(self, shape: Shape, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape, parts) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(
        self, tokens: Tensor, targets: Tensor, doc_start: Tensor | None = None, doc_end: Tensor | None = None
    ) -> Tensor:
        mask = None
        if self.parts.masked and doc_start is not None:
            mask = document_mask(doc_start)[:, None]
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, doc_start, doc_end, mask)
        return self.parts.loss(self.norm(x), self.embedding.weight, targets)


class Block(nn.Module):
    """Attention and a fourfold MLP, each with a norm before it."""

    def __init__(self, shape: Shape, parts: Parts) -> None:
        super().__init__()
        self.heads, self.parts = shape.heads, parts
        self.norms = nn.ModuleList(nn.RMSNorm(shape.width) for _ in range(2))
        self.to_qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.from_heads = nn.Linear(shape.width, shape.width, bias=False)
        self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.down = nn.Linear(4 * shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, doc_start: Tensor | None, doc_end: Tensor | None, mask: Tensor | None) -> Tensor:
        heads = self.to_qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))
        mixed = self.parts.attention(*heads.unbind(2), doc_start, doc_end, mask)
        x = x + self.from_heads(mixed.flatten(2))
        mlp: Tensor = self.down(F.gelu(self.up(self.norms[1](x)), approximate="tanh"))
        return x + mlp


def synthetic_batch(shape: Text, rows: int, seed: int, device: torch.device, mean_document: int | None = None) -> Batch:
    """Deterministic text of a kind: each token follows from the one before by a fixed rule, three times in four.

    Few of the vocabulary's tokens occur, so a model learns within two hundred steps and two loss curves have something
    to differ in.
    """
    from kernels.bench.attention import boundaries
    from kernels.documents import doc_bounds

    generator = torch.Generator().manual_seed(seed)
    words = min(shape.vocab, WORDS)
    drawn = torch.randint(words, (rows, shape.context + 1), generator=generator)
    follows = torch.rand(rows, shape.context + 1, generator=generator) < 0.75
    text = drawn.clone()
    for place in range(1, shape.context + 1):
        text[:, place] = torch.where(follows[:, place], (text[:, place - 1] * 5 + 3) % words, drawn[:, place])
    text *= shape.vocab // words
    tokens, targets = text[:, :-1].to(device), text[:, 1:].to(device)
    if mean_document is None:
        return Batch(tokens, targets)
    packed = AttentionShape(rows, shape.context, 1, 1, 1, mean_document=mean_document)
    return Batch(tokens, targets, *doc_bounds(boundaries(packed, seed, device)))


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; on CUDA the fused one."""
    fused = next(model.parameters()).is_cuda
    return torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=fused)


def train_step(loss_of: Callable[..., Tensor], optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
    """One optimizer step, bf16 autocast on CUDA; the loss stays on the device."""
    device = batch.tokens.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        loss = loss_of(batch.tokens, batch.targets, batch.doc_start, batch.doc_end)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()
