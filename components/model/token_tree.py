"""One forward pass over many sequences that computes every shared prefix once.

Sequences that begin alike form a tree, a node for each token after a given prefix. Causal attention makes the hidden
state of a node a function of the tokens on its path alone, so the state is the same for all sequences through it. The
linear layers, which are nearly all of the work, see every node once and no padding.

A result never depends on which other sequences are in the pass, to the last bit, because no matrix product has a shape
that depends on them: rows go through the linear layers in tiles of a fixed number, and attention takes the queries of a
path in blocks of ``BLOCK`` positions, each with the keys from the beginning of the path to the end of its block. (A
matrix product of fewer rows may add up in another order.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.model import ops
from components.model.transformer import Block, Transformer, rotate

BLOCK = 16
"""Positions of a path whose attention is computed together."""
TILE = 256
"""Rows of a matrix product."""
_GATHERED_KEYS = 32_768


@dataclass(frozen=True)
class PrefixTree:
    """Sequences of tokens with their common prefixes; nodes are numbered in the order in which sequences meet them."""

    tokens: Int[np.ndarray, " nodes"]
    depth: Int[np.ndarray, " nodes"]
    """Position of the node in every sequence through it."""
    paths: list[Int[np.ndarray, " length"]]
    """For every sequence the nodes of its tokens."""
    own_from: list[int]
    """For every sequence the position of its first node that no sequence before it has; its length if there is none."""


@dataclass(frozen=True)
class _Blocks:
    """Attention of some blocks that begin at the same position."""

    mask: Float[Tensor, "1 1 positions keys"]
    queries: Int[Tensor, "blocks positions"]
    keys: Int[Tensor, "blocks keys"]
    block: Int[Tensor, " written"]
    place: Int[Tensor, " written"]
    node: Int[Tensor, " written"]
    """Node whose result stands at ``place`` of ``block``; places that another block or nobody needs are left out."""


def grown_trees(sequences: Sequence[Sequence[int]], max_nodes: int) -> Iterator[tuple[list[int], PrefixTree]]:
    """Trees of at most ``max_nodes`` nodes (one sequence at least), each with the indices of its sequences.

    Sequences are taken in the order of their tokens, so those with a common prefix come together.
    """
    members: list[int] = []
    before: Sequence[int] = ()
    nodes = 0
    for index in sorted(range(len(sequences)), key=lambda index: tuple(sequences[index])):
        new = len(sequences[index]) - _common(before, sequences[index])
        if members and nodes + new > max_nodes:
            yield members, _grown([sequences[member] for member in members])
            members, nodes, new = [], 0, len(sequences[index])
        members.append(index)
        nodes, before = nodes + new, sequences[index]
    if members:
        yield members, _grown([sequences[member] for member in members])


def hidden_states(model: Transformer, tree: PrefixTree) -> Float[Tensor, "rows width"]:
    """Hidden state of every node after the final norm; further rows, up to a multiple of ``TILE``, are padding.

    Equals ``model(sequence)`` of each sequence at the positions of its nodes. No sequence may exceed the context.
    """
    device = model.output_weight.device
    rows = -(-len(tree.tokens) // TILE) * TILE
    tokens, depth = (torch.from_numpy(_padded(values, rows)).to(device) for values in (tree.tokens, tree.depth))
    hidden = model.embedding(tokens)
    dtype = hidden.dtype
    rotation = model.cosine[depth, None].to(dtype), model.sine[depth, None].to(dtype)
    blocks = list(_blocks(tree, device, dtype))
    for block in model.blocks:
        assert isinstance(block, Block)  # for mypy
        _through(block, hidden, rotation, blocks)
    return torch.cat([model.norm(tile) for tile in hidden.split(TILE)])


def _grown(ordered: Sequence[Sequence[int]]) -> PrefixTree:
    tokens: list[int] = []
    depth: list[int] = []
    paths: list[np.ndarray] = []
    own_from: list[int] = []
    before: Sequence[int] = ()
    for sequence in ordered:
        shared = _common(before, sequence)
        new = np.arange(len(tokens), len(tokens) + len(sequence) - shared)
        paths.append(np.concatenate((paths[-1][:shared], new)) if paths else new)
        own_from.append(shared)
        tokens += sequence[shared:]
        depth += range(shared, len(sequence))
        before = sequence
    return PrefixTree(np.array(tokens), np.array(depth), paths, own_from)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common prefix."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _padded(values: Int[np.ndarray, " nodes"], rows: int) -> Int[np.ndarray, " rows"]:
    return np.concatenate((values, np.zeros(rows - len(values), dtype=values.dtype)))


def _blocks(tree: PrefixTree, device: torch.device, dtype: torch.dtype) -> Iterator[_Blocks]:
    """All blocks that hold a node which no block before them holds, grouped by where they begin."""
    starting: dict[int, list[int]] = {}
    for number, (path, own_from) in enumerate(zip(tree.paths, tree.own_from, strict=True)):
        for begin in range(own_from - own_from % BLOCK, len(path) if own_from < len(path) else 0, BLOCK):
            starting.setdefault(begin, []).append(number)
    for begin, numbers in sorted(starting.items()):
        keys = begin + BLOCK
        size = max(1, _GATHERED_KEYS // keys)
        position = torch.arange(keys, device=device)
        visible = position <= position[begin:, None]
        mask = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))[None, None]
        for start in range(0, len(numbers), size):
            yield _gathered(tree, numbers[start : start + size], begin, mask)


def _gathered(
    tree: PrefixTree, numbers: Sequence[int], begin: int, mask: Float[Tensor, "1 1 positions keys"]
) -> _Blocks:
    keys = np.zeros((len(numbers), begin + BLOCK), dtype=np.int64)
    own: Bool[np.ndarray, "blocks positions"] = np.zeros((len(numbers), BLOCK), dtype=bool)
    for row, number in enumerate(numbers):
        path = tree.paths[number][: begin + BLOCK]
        keys[row, : len(path)] = path
        own[row, max(tree.own_from[number] - begin, 0) : len(path) - begin] = True
    queries = keys[:, begin:]
    block, place = np.nonzero(own)
    indices = (torch.from_numpy(each).to(mask.device) for each in (queries, keys, block, place, queries[own]))
    return _Blocks(mask, *indices)


def _through(
    block: Block, hidden: Float[Tensor, "rows width"], rotation: tuple[Tensor, Tensor], blocks: Sequence[_Blocks]
) -> None:
    """``Block.forward`` for the nodes of a tree; the result is written to ``hidden``."""
    tiles = [slice(start, start + TILE) for start in range(0, len(hidden), TILE)]
    query, key, value = _projected(block, hidden, rotation, tiles)
    mixed = torch.zeros_like(query)
    for some in blocks:
        attended = ops.attention(query[some.queries], key[some.keys], value[some.keys], mask=some.mask)
        mixed[some.node] = attended[some.block, some.place]
    for tile in tiles:
        hidden[tile] += block.attention.output(mixed[tile].flatten(-2))
        hidden[tile] += block.feed_forward(block.feed_forward_norm(hidden[tile]))


def _projected(
    block: Block, hidden: Float[Tensor, "rows width"], rotation: tuple[Tensor, Tensor], tiles: Sequence[slice]
) -> tuple[Float[Tensor, "rows heads head"], Float[Tensor, "rows kv_heads head"], Float[Tensor, "rows kv_heads head"]]:
    attention = block.attention
    query, key, value = (
        hidden.new_empty(len(hidden), layer.out_features // attention.head_dim, attention.head_dim)
        for layer in (attention.query, attention.key, attention.value)
    )
    cosine, sine = rotation
    for tile in tiles:
        normed = block.attention_norm(hidden[tile])
        for layer, rotated in ((attention.query, query), (attention.key, key)):
            heads = layer(normed).unflatten(-1, (-1, attention.head_dim))
            rotated[tile] = rotate(heads, cosine[tile], sine[tile])
        value[tile] = attention.value(normed).unflatten(-1, (-1, attention.head_dim))
    return query, key, value
