"""What tokens of a small model cost on a CPU, compiled by Numba: norms, rotation, attention, SwiGLU in one call.

torch takes three to ten microseconds to call an operator, and a pass over ten layers calls two hundred. Here a pass is
one call, and no Python runs in it.

Every number is made in the same way however many tokens there are. Products go through the inputs one by one
(``products.py``); only outputs and tokens are computed side by side. LLVM may join a product and a sum to one
operation (``contract``) but not change their order, except in one token's norm and attention, where nothing depends on
other tokens.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-call"
import math

import numpy as np

from components.model.compiled.basics import ONE, TILE, ZERO, Array, compiled, exp
from components.model.compiled.products import ADD, PUT, multiply
from components.model.compiled.row_loops import norm_row, silu


@compiled()
def norm(hidden: Array, weight: Array, epsilon: np.float32, normed: Array) -> None:
    """RMSNorm of every row of ``hidden`` into ``normed``; both may have more columns than ``weight``."""
    for t in range(len(hidden)):
        norm_row(hidden[t, : len(weight)], weight, epsilon, normed[t])


@compiled()
def _turn(head: Array, cosine: Array, sine: Array, turned: Array) -> None:
    half = len(cosine)
    for i in range(half):
        first, second = head[i], head[half + i]
        turned[i] = first * cosine[i] - second * sine[i]
        turned[half + i] = second * cosine[i] + first * sine[i]


@compiled("reassoc")
def _attend(queries: Array, keys: Array, values: Array, of_head: int, end: int, mixed: Array, scores: Array) -> None:
    """One token's attention with one key head.

    Shapes: queries and mixed ``[group, head]``, keys and values ``[capacity, kv_heads, head]``, of which the first
    ``end`` are read; ``scores`` is room for a line of them.
    """
    group, head = queries.shape
    scale = ONE / math.sqrt(np.float32(head))
    for g in range(group):
        highest = np.float32(-np.inf)
        for k in range(end):
            score = ZERO
            for d in range(head):
                score += queries[g, d] * keys[k, of_head, d]
            scores[k] = score * scale
            highest = max(highest, scores[k])
        total = ZERO
        for k in range(end):
            scores[k] = exp(scores[k] - highest)
            total += scores[k]
        mixed[g, :] = ZERO
        for k in range(end):
            share = scores[k] / total
            for d in range(head):
                mixed[g, d] += share * values[k, of_head, d]


@compiled()
def _mix(
    parts: Array, angle: tuple[Array, Array], keys: Array, values: Array, position: int, mixed: Array, room: Array
) -> None:
    """Store a token's keys and values, and mix the values that it sees.

    Shapes: parts ``[heads + 2 * kv_heads, head]``, its queries, keys and values; cosine and sine of its angle
    ``[head / 2]``; keys and values of its document ``[capacity, kv_heads, head]``; mixed ``[heads, head]``; room, for
    the turned queries and the scores, ``[heads * head + capacity]``.
    """
    heads, head = mixed.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    turned = room[: heads * head].reshape(heads, head)
    for h in range(heads):
        _turn(parts[h], angle[0], angle[1], turned[h])
    for h in range(kv_heads):
        _turn(parts[heads + h], angle[0], angle[1], keys[position, h])
        values[position, h, :] = parts[heads + kv_heads + h]
    for h in range(kv_heads):
        some = slice(h * group, (h + 1) * group)
        _attend(turned[some], keys, values, h, position + 1, mixed[some], room[heads * head :])


@compiled()
def _activate(both: Array, active: Array, width: int) -> None:
    """SwiGLU: gate and up lie side by side in ``both``."""
    for t in range(len(both)):
        for i in range(width):
            active[t, i] = silu(both[t, i]) * both[t, width + i]


@compiled()
def read_tokens(
    hidden: Array,
    places: Array,
    keys: Array,
    values: Array,
    cosine: Array,
    sine: Array,
    norms: Array,
    query_key_value: Array,
    output: Array,
    gate_up: Array,
    down: Array,
    widths: tuple[int, int, int],
    epsilon: np.float32,
) -> None:
    """Take tokens through all layers; ``hidden`` is changed, and keys and values are stored.

    Arguments:
        hidden: embeddings ``[tokens, at least width]``; columns beyond the width are zero and stay so.
        places: ``[tokens, 2]``: row of the cache and position of each, those of a row in order.
        keys, values: ``[layers, rows, capacity, kv_heads, head]``.
        cosine, sine: of the rotary angles, ``[context, head / 2]``.
        norms: ``[layers, 2, width]``, before attention and before the feed-forward half.
        query_key_value, output, gate_up, down: of every layer as ``add_product`` takes it.
        widths: of the attention, its heads together; of the hidden layer; number of query heads.
        epsilon: of the norms.
    """
    tokens = len(hidden)
    attention_width, hidden_width, heads = widths
    layers, _, capacity, kv_heads, head = keys.shape
    normed = np.zeros((tokens, query_key_value.shape[2]), dtype=np.float32)
    joint = np.empty((tokens, query_key_value.shape[1] * TILE), dtype=np.float32)
    mixed = np.zeros((tokens, output.shape[2]), dtype=np.float32)
    both = np.empty((tokens, gate_up.shape[1] * TILE), dtype=np.float32)
    active = np.zeros((tokens, down.shape[2]), dtype=np.float32)
    room = np.empty(heads * head + capacity, dtype=np.float32)
    for layer in range(layers):
        norm(hidden, norms[layer, 0], epsilon, normed)
        multiply(normed, query_key_value[layer], joint, PUT)
        for t in range(tokens):
            row, position = places[t, 0], places[t, 1]
            parts = joint[t, : (heads + 2 * kv_heads) * head].reshape(heads + 2 * kv_heads, head)
            by_head = mixed[t, :attention_width].reshape(heads, head)
            angle = (cosine[position], sine[position])
            _mix(parts, angle, keys[layer, row], values[layer, row], position, by_head, room)
        multiply(mixed, output[layer], hidden, ADD)
        norm(hidden, norms[layer, 1], epsilon, normed)
        multiply(normed, gate_up[layer], both, PUT)
        _activate(both, active, hidden_width)
        multiply(active, down[layer], hidden, ADD)
