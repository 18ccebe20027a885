"""How likely are continuations: log-probabilities of the last tokens of many sequences, ``<CALL>`` left out.

Prefixes that sequences share are computed once (``token_tree.py``). The output layer, for a small model most of the
work, is computed once for each prefix whose next token is asked for, and in blocks of the vocabulary that stay in the
cache: all logits of one prefix would be written to memory, read and forgotten. Results depend neither on what else is
asked, nor on the size of a batch, nor on the number of threads: on a CPU every thread computes whole batches alone.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.model.token_tree import TILE, PrefixTree, grown_trees, hidden_states
from components.model.transformer import Transformer

VOCABULARY_BLOCK = 1024
# A call should have several trees for each thread, or the last one is waited for; 4,000 short sentences make about ten.
_TREES_EACH = 2


@dataclass(frozen=True)
class Scored:
    """Of one sequence the tokens that were asked for."""

    nats: Float[np.ndarray, " tokens"]
    """-log P of each, ``<CALL>`` left out."""
    likeliest: Bool[np.ndarray, " tokens"]
    """Whether no other token is likelier."""
    confidence: Float[np.ndarray, " tokens"]
    """Probability of the likeliest token at its place, ``<CALL>`` left out."""
    call: Float[np.ndarray, " tokens"]
    """P(<CALL>) at its place, had it been allowed."""


@dataclass(frozen=True)
class _Edges:
    """Tokens that follow nodes: each pair once, sorted by token."""

    node: Int[np.ndarray, " edges"]
    token: Int[np.ndarray, " edges"]
    asked: list[Int[np.ndarray, " tokens"]]
    """For every sequence the edges of its asked tokens."""


@dataclass(frozen=True)
class _Normalised:
    """What the output layer says of some nodes."""

    log_sum: Float[Tensor, "nodes"]
    """log of the sum of exp of all logits but that of ``<CALL>``."""
    highest: Float[Tensor, "nodes"]
    """The highest of them."""
    confidence: Float[Tensor, "nodes"]
    """Probability of the token that has it."""
    call: Float[Tensor, "nodes"]
    """P(<CALL>) among all tokens: with Z' the sum over the others, e^c / (e^c + Z') = sigmoid(c - log Z')."""


def score_continuations(
    model: Transformer, sequences: Sequence[Sequence[int]], asked: Sequence[int], call_id: int, batch_tokens: int = 8192
) -> list[Scored]:
    """Score the last tokens of every sequence, in fp32, on the model's device.

    Arguments:
        sequences: ids, the document's boundary included where one precedes; at most ``context_length`` + 1 of them.
        asked: how many tokens at the end of each are scored; fewer than it has.
        call_id: the token left out of the softmax.
        batch_tokens: tokens in one pass; costs memory, changes nothing.
    """
    found: list[Scored | None] = [None] * len(sequences)

    def score(batch: tuple[list[int], PrefixTree]) -> None:
        members, tree = batch
        targets = [sequences[member][-asked[member] :] for member in members]
        for member, scored in zip(members, _score_tree(model, tree, targets, call_id), strict=True):
            found[member] = scored

    prefixes = [sequence[:-1] for sequence in sequences]
    if model.output_weight.device.type != "cpu":
        for tree in grown_trees(prefixes, batch_tokens):
            score(tree)
    else:
        with _one_thread_each() as (workers, threads):
            list(workers.map(score, grown_trees(prefixes, max(1, batch_tokens // (_TREES_EACH * threads)))))
    return [scored for scored in found if scored is not None]


@contextmanager
def _one_thread_each() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """As many workers as torch has threads, each computing on one; and their number.

    Products of a small model are too short to be shared out: on two busy cores, waiting for the other thread took most
    of the time.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
            yield workers, threads
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _score_tree(model: Transformer, tree: PrefixTree, targets: Sequence[Sequence[int]], call_id: int) -> list[Scored]:
    edges = _edges(tree, targets, model.vocab_size)
    hidden = hidden_states(model, tree)
    parents, row = np.unique(edges.node, return_inverse=True)
    logits, normalised = _output(model.output_weight, hidden, parents, row, edges.token, call_id)
    at = torch.from_numpy(row).to(logits.device)
    nats = (normalised.log_sum[at] - logits).double().cpu().numpy()
    likeliest = (logits >= normalised.highest[at]).cpu().numpy()
    confidence, call = (each[at].double().cpu().numpy() for each in (normalised.confidence, normalised.call))
    return [Scored(nats[each], likeliest[each], confidence[each], call[each]) for each in edges.asked]


def _edges(tree: PrefixTree, targets: Sequence[Sequence[int]], vocab_size: int) -> _Edges:
    nodes = np.concatenate([path[len(path) - len(each) :] for path, each in zip(tree.paths, targets, strict=True)])
    tokens = np.concatenate([np.asarray(each, dtype=np.int64) for each in targets])
    pairs, edge = np.unique(tokens * len(tree.tokens) + nodes, return_inverse=True)
    ends = np.cumsum([len(each) for each in targets])
    return _Edges(pairs % len(tree.tokens), pairs // len(tree.tokens), np.split(edge, ends[:-1]))


def _output(
    weight: Float[Tensor, "vocab width"],
    hidden: Float[Tensor, "rows width"],
    parents: Int[np.ndarray, " parents"],
    row: Int[np.ndarray, " edges"],
    token: Int[np.ndarray, " edges"],
    call_id: int,
) -> tuple[Float[Tensor, "edges"], _Normalised]:
    """Logit of every edge, and what normalises it for every parent; ``row`` is the parent of an edge."""
    logits = hidden.new_empty(len(token))
    tiles = []
    for start in range(0, len(parents), TILE):
        nodes = parents[start : start + TILE]
        padded = np.concatenate((nodes, np.zeros(TILE - len(nodes), dtype=nodes.dtype)))
        mine = np.flatnonzero((row >= start) & (row < start + TILE))
        logits_of_tile, normalised = _tile(
            weight, hidden[torch.from_numpy(padded).to(hidden.device)], row[mine] - start, token[mine], call_id
        )
        logits[torch.from_numpy(mine).to(hidden.device)] = logits_of_tile
        tiles.append(normalised[:, : len(nodes)])
    return logits, _Normalised(*torch.cat(tiles, dim=1))


def _tile(
    weight: Float[Tensor, "vocab width"],
    hidden: Float[Tensor, "tile width"],
    row: Int[np.ndarray, " edges"],
    token: Int[np.ndarray, " edges"],
    call_id: int,
) -> tuple[Float[Tensor, "edges"], Float[Tensor, "4 tile"]]:
    """Logits of the edges, whose tokens ascend, and the rows of ``_Normalised``."""
    highest, sums, logits = [], [], []
    call = hidden.new_empty(len(hidden))
    for begin in range(0, len(weight), VOCABULARY_BLOCK):
        block = F.linear(hidden, weight[begin : begin + VOCABULARY_BLOCK])
        if begin <= call_id < begin + VOCABULARY_BLOCK:
            call = block[:, call_id - begin].clone()
            block[:, call_id - begin] = float("-inf")
        first, last = np.searchsorted(token, (begin, begin + VOCABULARY_BLOCK))
        logits.append(block[row[first:last], token[first:last] - begin])
        highest.append(block.amax(dim=1))
        sums.append(block.sub_(highest[-1][:, None]).exp_().sum(dim=1))
    peaks = torch.stack(highest)
    log_sum = torch.logsumexp(peaks + torch.stack(sums).log(), dim=0)
    peak = peaks.amax(dim=0)
    return torch.cat(logits), torch.stack((log_sum, peak, (peak - log_sum).exp(), torch.sigmoid(call - log_sum)))
