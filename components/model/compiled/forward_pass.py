"""A forward pass of a small fp32 model on a CPU in one compiled call (``token_loops.py``).

What a token gives depends on nothing but the tokens before it in its own document, to the last bit: neither on other
documents nor on how many tokens are read at once, nor on threads, for there is one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.model.compiled import token_loops
from components.model.compiled.basics import TILE
from components.model.compiled.products import PUT, multiply, put_transposed
from components.model.compiled.threads import arrays
from components.model.decoder_cache import DecoderCache
from components.model.projection import Projection
from components.model.transformer import Transformer

LARGEST = 2**20
"""Numbers of a matrix. To read a larger one takes longer than a call, and oneDNN has more threads."""

Matrix = Float[np.ndarray, "tiles inputs TILE"]


def compilable(weight: Tensor) -> bool:
    """Whether products with this matrix are for this module."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() <= LARGEST


def compilable_model(model: Transformer) -> bool:
    """Whether passes of this model are. Layers that are more than a matrix, adapters say, are not."""
    linear = [each for block in model.blocks for each in block.modules() if isinstance(each, nn.Linear)]
    plain = all(type(each) is Projection for each in linear)
    return plain and len(linear) == 7 * len(model.blocks) and all(compilable(each.weight) for each in linear)


class CompiledProduct:
    """``rows @ weight.T`` for a matrix as it is now, which it copies."""

    def __init__(self, weight: Float[Tensor, "outputs inputs"]) -> None:
        self._outputs = len(weight)
        self._matrix = tiled(weight)

    def __call__(self, rows: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        out = np.empty((len(rows), self._matrix.shape[0] * TILE), dtype=np.float32)
        multiply(rows.numpy(), self._matrix, out, PUT)
        return torch.from_numpy(out)[:, : self._outputs]


class CompiledPass:
    """The layers of a model. Weights are copied as they are now, but for the embedding."""

    def __init__(self, model: Transformer) -> None:
        config = model.config
        self._model, self._width = model, config.width
        self._columns = _whole(config.width, TILE)
        blocks = [{name: weight.detach() for name, weight in block.named_parameters()} for block in model.blocks]
        norms = [[block["attention_norm.weight"], block["feed_forward_norm.weight"]] for block in blocks]
        half = config.head_dim // 2
        self._weights = (
            model.cosine[:, :half].numpy().copy(),
            -model.sine[:, :half].numpy(),  # its first half is negative there
            np.stack([torch.stack(pair).numpy() for pair in norms]),
            _stacked(blocks, "attention.query", "attention.key", "attention.value"),
            _stacked(blocks, "attention.output"),
            _stacked(blocks, "feed_forward.gate", "feed_forward.up"),
            _stacked(blocks, "feed_forward.down"),
            (config.attention_width, config.hidden_width, config.heads),
            np.float32(config.norm_epsilon),
        )
        self._norm = model.norm.weight.detach().numpy().copy()

    def __call__(self, cache: DecoderCache, unread: Mapping[int, Sequence[int]]) -> Float[Tensor, "rows width"]:
        """As ``DecoderPass.__call__``, except that the cache has room already and its lengths stay as they are."""
        tokens, places, last = list[int](), list[tuple[int, int]](), list[int]()
        for row, ids in unread.items():
            tokens += ids
            start = cache.lengths[row]
            places += [(row, position) for position in range(start, start + len(ids))]
            last.append(len(tokens) - 1)
        hidden = np.zeros((len(tokens), self._columns), dtype=np.float32)
        hidden[:, : self._width] = self._model.embedding(torch.tensor([tokens]))[0].detach().numpy()
        stored = cache.keys.numpy(), cache.values.numpy()
        token_loops.read_tokens(hidden, np.array(places), *stored, *self._weights)
        if len(last) < len(hidden):
            hidden = hidden[last]
        normed = np.empty((len(last), self._width), dtype=np.float32)
        token_loops.norm(hidden, self._norm, self._weights[-1], normed)
        return torch.from_numpy(normed)


def tiled(weight: Float[Tensor, "outputs inputs"]) -> Matrix:
    """A matrix as ``multiply`` takes it, filled up with zeros."""
    outputs, inputs = weight.shape
    panels = np.empty((_whole(outputs, TILE) // TILE, inputs, TILE), dtype=np.float32)
    put_transposed(*arrays(weight), panels)
    return panels


def _stacked(blocks: Sequence[Mapping[str, Tensor]], *names: str) -> Float[np.ndarray, "layers tiles inputs TILE"]:
    """Of every block the matrices of these names, one below the other."""
    return np.stack([tiled(torch.cat([block[f"{name}.weight"] for name in names])) for block in blocks])


def _whole(count: int, of: int) -> int:
    """The next multiple."""
    return -(-count // of) * of
