"""One forward pass over many texts that share beginnings: a beginning is read once, for all that follow it.

The tokens of all texts are the rows of one table. Attention sees, for every segment of a text, the rows of what comes
before it; everything else works on single rows. Two rules make the result of a token independent of what else is in
the pass, to the last bit: the matrix products always take ``TILE`` rows, and attention takes shapes that follow from
the segment alone. (A library chooses its algorithm by the shape, so that the same row in another shape differs in its
last bits.) The price is a part of one tile for each pass.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from components.model.transformer import Attention, Block, Transformer, rotate

TILE = 512
"""Rows of every matrix product."""
# Lengths in attention are rounded up to these, so that segments of like lengths go together.
_OWN_MULTIPLE = 8
_BEFORE_MULTIPLE = 16


@dataclass(frozen=True, eq=False)
class Segment:
    """Some tokens of a text, after those of ``before``."""

    ids: tuple[int, ...]
    """At least one."""
    before: "Segment | None" = None
    """What the text begins with; several segments may follow the same one."""

    @cached_property
    def start(self) -> int:
        """Position of its first token in the text."""
        return self.before.end if self.before is not None else 0

    @property
    def end(self) -> int:
        """Length of the text up to its last token."""
        return self.start + len(self.ids)


@torch.inference_mode()
def read_segments(model: Transformer, segments: Sequence[Segment]) -> Float[Tensor, "tokens width"]:
    """Hidden states after the final norm of all tokens, in the order of ``segments``.

    Equals ``model(text)`` for the text of every segment, but for rounding. Each segment stands after the one before
    it. Raises ``ValueError`` for a text that is longer than the context.
    """
    longest = max(segment.end for segment in segments)
    if longest > model.config.context_length:
        raise ValueError(f"a text of {longest} tokens exceeds the context of {model.config.context_length}")
    device = model.output_weight.device
    tree = _Tree.of(segments, device)
    hidden = _tiled(model.embedding, tree.ids)
    cosine, sine = model.cosine[tree.positions, None], model.sine[tree.positions, None]
    for block in model.blocks:
        assert isinstance(block, Block)
        hidden = _through(block, hidden, (cosine, sine), tree)
    return _tiled(model.norm, hidden)[: tree.tokens]


def tiles(rows: Tensor, size: int = TILE) -> Iterator[Tensor]:
    """The rows in tiles of exactly ``size``; the last one is filled with zeros."""
    for start in range(0, len(rows), size):
        tile = rows[start : start + size]
        yield tile if len(tile) == size else torch.cat((tile, tile.new_zeros(size - len(tile), *tile.shape[1:])))


def _tiled(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return torch.cat([function(tile) for tile in tiles(rows)])


@dataclass(frozen=True)
class _Group:
    """Segments whose attention has one shape."""

    queries: Int[Tensor, "segments own"]
    """Rows of their tokens; padded with the last."""
    keys: Int[Tensor, "segments keys"]
    """Rows of what comes before, padded, and then of the tokens themselves."""
    mask: Float[Tensor, "segments 1 own keys"] | None
    """``None`` where nothing comes before: plain causal attention."""
    real: Int[Tensor, "rows"]
    """Which of the queries, flat, are tokens."""
    rows: Int[Tensor, "rows"]
    """And the rows of these."""


@dataclass(frozen=True)
class _Tree:
    """The segments as rows."""

    tokens: int
    ids: Int[Tensor, "rows"]
    """Padded to whole tiles."""
    positions: Int[Tensor, "rows"]
    groups: list[_Group]

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> "_Tree":
        rows: dict[Segment, np.ndarray] = {}
        start = 0
        for segment in segments:
            rows[segment] = np.arange(start, start + len(segment.ids))
            start += len(segment.ids)
        by_shape: defaultdict[tuple[int, int], list[Segment]] = defaultdict(list)
        for segment in segments:
            by_shape[_up(segment.start, _BEFORE_MULTIPLE), _up(len(segment.ids), _OWN_MULTIPLE)].append(segment)
        padding = [0] * (-start % TILE)
        ids = [id for segment in segments for id in segment.ids] + padding
        positions = [place for segment in segments for place in range(segment.start, segment.end)] + padding
        return cls(
            start,
            torch.tensor(ids, device=device),
            torch.tensor(positions, device=device),
            [_group(members, rows, shape, device) for shape, members in by_shape.items()],
        )


def _group(
    segments: Sequence[Segment], rows: dict[Segment, np.ndarray], shape: tuple[int, int], device: torch.device
) -> _Group:
    before, own = shape
    keys = np.zeros((len(segments), before + own), dtype=np.int64)
    for number, segment in enumerate(segments):
        keys[number, before:] = np.pad(rows[segment], (0, own - len(segment.ids)), mode="edge")
        earlier = segment.before
        while earlier is not None:
            keys[number, earlier.start : earlier.end] = rows[earlier]
            earlier = earlier.before
    queries = keys[:, before:]
    lengths = np.array([len(segment.ids) for segment in segments])
    real = np.flatnonzero(np.arange(own) < lengths[:, None])
    starts = torch.tensor([segment.start for segment in segments], device=device)
    return _Group(
        torch.from_numpy(queries.copy()).to(device),
        torch.from_numpy(keys).to(device),
        _mask(starts, before, own) if before else None,
        torch.from_numpy(real).to(device),
        torch.from_numpy(queries.reshape(-1)[real]).to(device),
    )


def _mask(starts: Int[Tensor, "segments"], before: int, own: int) -> Float[Tensor, "segments 1 own keys"]:
    """What each token sees: all that comes before its segment, and its own segment up to itself."""
    place = torch.arange(before + own, device=starts.device)
    earlier = place < starts[:, None, None]
    itself = (place >= before) & (place - before <= torch.arange(own, device=starts.device)[:, None])
    visible = earlier | itself
    return torch.zeros(visible.shape, device=starts.device).masked_fill_(~visible, float("-inf"))[:, None]


def _through(
    block: Block, hidden: Float[Tensor, "rows width"], rotation: tuple[Tensor, Tensor], tree: _Tree
) -> Float[Tensor, "rows width"]:
    mixed = _attention(block.attention, _tiled(block.attention_norm, hidden), rotation, tree)
    done = []
    for before, tile in zip(tiles(hidden), tiles(mixed), strict=True):
        after = before + block.attention.output(tile)
        done.append(after + block.feed_forward(block.feed_forward_norm(after)))
    return torch.cat(done)


def _attention(
    attention: Attention, normed: Float[Tensor, "rows width"], rotation: tuple[Tensor, Tensor], tree: _Tree
) -> Float[Tensor, "rows width"]:
    query, key, value = (
        _tiled(linear, normed).view(len(normed), -1, attention.head_dim)
        for linear in (attention.query, attention.key, attention.value)
    )
    cosine, sine = (each.to(query.dtype) for each in rotation)
    query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
    mixed = torch.zeros_like(query)
    for group in tree.groups:
        mixed[group.rows] = _mixed(query[group.queries], key[group.keys], value[group.keys], group)
    return mixed.flatten(-2)


def _mixed(
    query: Float[Tensor, "segments own heads head"],
    key: Float[Tensor, "segments keys kv_heads head"],
    value: Float[Tensor, "segments keys kv_heads head"],
    group: _Group,
) -> Float[Tensor, "rows heads head"]:
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=group.mask.to(query.dtype) if group.mask is not None else None,
        is_causal=group.mask is None,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2).flatten(0, 1)[group.real]


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
