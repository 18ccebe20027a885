"""One forward pass over new tokens of many documents, laid end to end without padding.

A small fp32 model on a CPU reads them in one compiled call (``compiled/forward_pass.py``). Documents with an adapter,
and all documents of other models, are read by torch's operators. There, linear layers see all tokens as one matrix;
attention is made together for the documents with one new token, which are most of them, and for each other document
alone, in blocks of ``BLOCK`` positions. Either way a prompt can be read in the same pass in which others get their next
token.

What a document's tokens give depends on no other document, to the last bit, on a CPU. Where operators compute it, that
takes packed products (``packed_product.py``): no product has a single row (one is computed twice), attention reads keys
in multiples of 16 (``decoder_cache.py``), and blocks begin at multiples of their size.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.model.adapters.stack import AdapterStack, Chosen, Correction
from components.model.adapters.unmerged import Unmerged
from components.model.compiled.forward_pass import CompiledPass, CompiledProduct, compilable_model
from components.model.decoder_cache import DecoderCache, aligned
from components.model.packed_product import Product, joint_product, product
from components.model.transformer import Block, RMSNorm, Transformer

BLOCK = 64
"""Positions of a document whose attention is computed together."""
PIECE_TOKENS = 256
"""Longest part of a prompt in one pass: a long prompt is read in several, so that others are not delayed."""
PASS_TOKENS = 1024
"""Most tokens of a pass of ``read``."""


_NO_ADAPTERS: Mapping[int, int] = {}


@dataclass(frozen=True)
class _Multiplied:
    """One product of a block, and what adapters make of it."""

    plain: Product
    correction: Correction | None

    def __call__(self, rows: Float[Tensor, "tokens inputs"], chosen: Chosen | None) -> Float[Tensor, "tokens outputs"]:
        if chosen is None or self.correction is None:
            return self.plain(rows)
        return self.correction(self.plain, rows, chosen)


class _Norm:
    """``RMSNorm``. For few rows on a CPU, each of the seven operations of torch's own costs more than its work."""

    def __init__(self, norm: RMSNorm) -> None:
        assert norm.eps is not None
        self._shape, self._weight, self._eps = norm.normalized_shape, norm.weight.detach(), norm.eps
        self._epsilon = self._weight.new_tensor(norm.eps)
        self._few_passes = self._weight.device.type == "cpu" and self._weight.dtype == torch.float32

    def __call__(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        if not self._few_passes:
            return F.rms_norm(hidden, self._shape, self._weight, self._eps)
        size: Tensor = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        scale = torch.addcmul(self._epsilon, size, size, value=1.0 / hidden.shape[1]).rsqrt_()
        return scale.mul(hidden).mul_(self._weight)


@dataclass(frozen=True)
class _Layer:
    """The products of one block of the model."""

    attention_norm: _Norm
    query_key_value: _Multiplied
    output: _Multiplied
    feed_forward_norm: _Norm
    gate_up: _Multiplied
    down: _Multiplied


class _ByLayer(Protocol):
    """Keys or values as attention reads them: ``[rows, kv_heads, keys, head]`` of every layer."""

    def __getitem__(self, layer: int, /) -> Tensor: ...


@dataclass(frozen=True)
class _Singles:
    """Documents with one new token: the first ``count`` tokens of the pass."""

    count: int
    keys: _ByLayer
    values: _ByLayer
    mask: Float[Tensor, "rows 1 1 keys"] | None


@dataclass(frozen=True)
class _Block:
    """Some neighbouring tokens of one document: ``begin`` to ``end`` of the pass."""

    begin: int
    end: int
    keys: _ByLayer
    values: _ByLayer
    mask: Float[Tensor, "queries keys"]


class DecoderPass:
    """A model as a decoder multiplies by it. Weights are taken as they are now, but for the embedding."""

    def __init__(self, model: Transformer, adapters: Sequence[Unmerged] = ()) -> None:
        """
        Arguments:
            model: in evaluation mode, on any device. Its matrices are laid out anew, which takes their memory.
            adapters: of this model; a row has one of them by its number, counted from one, or none.
        """
        self.model = model
        self._adapters = AdapterStack(model, adapters)
        config = model.config
        self._heads, self._kv_heads, self._head_dim = config.heads, config.kv_heads, config.head_dim
        self._rotated = config.heads + config.kv_heads
        dtype = model.output_weight.dtype
        half = config.head_dim // 2
        self._cosine = model.cosine[:, :half].to(dtype)[:, None, None]
        self._sine = model.sine.to(dtype).view(-1, 1, 2, half)
        self._compiled = CompiledPass(model) if compilable_model(model) else None
        blocks = enumerate(model.blocks) if adapters or self._compiled is None else ()
        self._layers = [_layer(block, f"blocks.{number}.", self._adapters) for number, block in blocks]
        self._norm = _Norm(model.norm)
        self._logits = product(model.output_weight)

    def new_cache(self) -> DecoderCache:
        """An empty cache on the device and in the dtype of the model."""
        weight = self.model.output_weight
        return DecoderCache(self.model.config, weight.device, weight.dtype)

    @torch.inference_mode()
    def logits(self, hidden: Float[Tensor, "rows width"], adapters: Sequence[int] = ()) -> Float[Tensor, "rows vocab"]:
        """Scores over the vocabulary; ``adapters``: the number of each row's, or nothing if none has one."""
        with _own_arithmetic(hidden.device):
            if len(hidden) == 1 and not isinstance(self._logits, CompiledProduct):
                return self._scores(hidden.expand(2, -1).contiguous(), [*adapters, *adapters])[:1]
            return self._scores(hidden, adapters)

    def _scores(self, hidden: Float[Tensor, "rows width"], adapters: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        logits = self._logits(hidden)
        self._adapters.rows.score(logits, hidden, adapters)
        return logits

    @torch.inference_mode()
    def __call__(
        self, cache: DecoderCache, unread: Mapping[int, Sequence[int]], adapters: Mapping[int, int] = _NO_ADAPTERS
    ) -> Float[Tensor, "rows width"]:
        """Read new tokens into rows of ``cache``; the hidden state after the last token of each, in their order.

        Arguments:
            cache: of this model; its rows are longer afterwards.
            unread: new ids of each row, at least one; together with what the row holds at most the context.
            adapters: the number of a row's adapter, for those that have one.

        Raises ``ValueError`` if a row would exceed the context, ``IndexError`` for an id that is no token.
        """
        cache.reserve(max(cache.lengths[row] + len(ids) for row, ids in unread.items()))
        if self._compiled is None:
            return self._by_operators(cache, unread, adapters)
        plain = {row: ids for row, ids in unread.items() if not adapters.get(row)} if adapters else unread
        if len(plain) == len(unread):
            hidden = self._compiled(cache, unread)
            _lengthen(cache, unread)
            return hidden
        adapted = {row: ids for row, ids in unread.items() if row not in plain}
        by_row = dict(zip(adapted, self._by_operators(cache, adapted, adapters), strict=True))
        if plain:
            by_row |= zip(plain, self._compiled(cache, plain), strict=True)
            _lengthen(cache, plain)
        return torch.stack([by_row[row] for row in unread])

    def _by_operators(
        self, cache: DecoderCache, unread: Mapping[int, Sequence[int]], adapters: Mapping[int, int]
    ) -> Float[Tensor, "rows width"]:
        singles = [row for row, ids in unread.items() if len(ids) == 1]
        longer = [row for row, ids in unread.items() if len(ids) != 1]
        # One token alone would be summed up in another order than the same token among others.
        computed = singles * 2 if len(singles) == 1 else singles
        tokens = [unread[row][0] for row in computed]
        numbers = [adapters.get(row, 0) for row in computed]
        positions = [cache.lengths[row] for row in computed]
        places = [row * cache.capacity + cache.lengths[row] for row in computed]
        last = dict(zip(singles, range(len(singles)), strict=True))
        for row in longer:
            start, count = cache.lengths[row], len(unread[row])
            tokens += unread[row]
            numbers += [adapters.get(row, 0)] * count
            positions += range(start, start + count)
            places += range(row * cache.capacity + start, row * cache.capacity + start + count)
            last[row] = len(tokens) - 1
        device = cache.keys.device
        with _own_arithmetic(device):
            hidden = self._through(
                cache,
                self._embedded(tokens, numbers, device),
                self._adapters.chosen(numbers),
                torch.tensor(positions, device=device),
                torch.tensor(places, device=device),
                self._singles(cache, singles, len(computed)),
                self._blocks(cache, unread, longer, len(computed)),
            )
        _lengthen(cache, unread)
        chosen = [last[row] for row in unread]
        if chosen == list(range(len(chosen))):
            hidden = hidden[: len(chosen)]
        else:
            hidden = hidden[torch.tensor(chosen, device=device)]
        with _own_arithmetic(device):
            return self._norm(hidden)

    def read(self, cache: DecoderCache, unread: Mapping[int, Sequence[int]]) -> Float[Tensor, "rows width"]:
        """As a call, in several passes where there is much to read, so that memory stays small."""
        left = {row: list(ids) for row, ids in unread.items()}
        last: dict[int, Tensor] = {}
        while left:
            some: dict[int, list[int]] = {}
            for row, ids in left.items():
                if not some or sum(map(len, some.values())) + min(len(ids), PIECE_TOKENS) <= PASS_TOKENS:
                    some[row] = ids[:PIECE_TOKENS]
            for row, hidden in zip(some, self(cache, some), strict=True):
                left[row] = left[row][PIECE_TOKENS:]
                if not left[row]:
                    del left[row]
                    last[row] = hidden
        return torch.stack([last[row] for row in unread])

    def _embedded(
        self, tokens: Sequence[int], numbers: Sequence[int], device: torch.device
    ) -> Float[Tensor, "tokens width"]:
        hidden: Tensor = self.model.embedding(torch.tensor(tokens, device=device)[None])[0]
        self._adapters.rows.embed(hidden, tokens, numbers)
        return hidden

    def _singles(self, cache: DecoderCache, rows: Sequence[int], count: int) -> _Singles | None:
        if not rows:
            return None
        device = cache.keys.device
        lengths = [cache.lengths[row] + 1 for row in rows]
        keys = aligned(max(lengths))
        mask = None
        if min(lengths) < keys:
            visible = torch.arange(keys, device=device) < torch.tensor(lengths, device=device)[:, None]
            mask = _additive(visible, cache.keys.dtype)[:, None, None]
        read: list[_ByLayer]
        if list(rows) == list(range(rows[0], rows[0] + len(rows))):
            some = slice(rows[0], rows[0] + len(rows))
            read = [_adjacent(stored, some, keys, count) for stored in (cache.keys, cache.values)]
        else:
            chosen = torch.tensor(list(rows), device=device)
            read = [_Gathered(stored, chosen, keys) for stored in (cache.keys, cache.values)]
        return _Singles(count, read[0], read[1], mask)

    def _blocks(
        self, cache: DecoderCache, unread: Mapping[int, Sequence[int]], rows: Sequence[int], offset: int
    ) -> list[_Block]:
        device, dtype = cache.keys.device, cache.keys.dtype
        blocks = []
        for row in rows:
            start, end = cache.lengths[row], cache.lengths[row] + len(unread[row])
            begin = start
            while begin < end:
                stop = min(end, (begin // BLOCK + 1) * BLOCK)
                keys = aligned(stop)
                position = torch.arange(begin, stop, device=device)
                visible = torch.arange(keys, device=device) <= position[:, None]
                mask = _additive(visible, dtype).repeat(self._heads // self._kv_heads, 1)
                # One query is computed as two, like a document with one new token.
                read = [
                    _adjacent(stored, slice(row, row + 1), keys, 2 if stop - begin == 1 else 1)
                    for stored in (cache.keys, cache.values)
                ]
                blocks.append(_Block(offset + begin - start, offset + stop - start, read[0], read[1], mask))
                begin = stop
            offset += end - start
        return blocks

    def _through(
        self,
        cache: DecoderCache,
        hidden: Float[Tensor, "tokens width"],
        chosen: Chosen | None,
        positions: Int[Tensor, " tokens"],
        places: Int[Tensor, " tokens"],
        singles: _Singles | None,
        blocks: Sequence[_Block],
    ) -> Float[Tensor, "tokens width"]:
        cosine, sine = self._cosine[positions], self._sine[positions]
        shape = (-1, self._rotated + self._kv_heads, self._head_dim)
        # Views of all layers at once: to make them one by one would take as long as the rotation.
        all_keys, all_values = (stored.flatten(1, 2).unbind() for stored in (cache.keys, cache.values))
        for number, layer in enumerate(self._layers):
            heads = layer.query_key_value(layer.attention_norm(hidden), chosen).view(shape)
            turned = heads[:, : self._rotated].view(-1, self._rotated, 2, self._head_dim // 2)
            turned = torch.addcmul(turned * cosine, turned.flip(2), sine).flatten(-2)
            all_keys[number].index_copy_(0, places, turned[:, self._heads :])
            all_values[number].index_copy_(0, places, heads[:, self._rotated :])
            hidden = hidden + layer.output(self._attention(turned, number, singles, blocks), chosen)
            gate, up = layer.gate_up(layer.feed_forward_norm(hidden), chosen).chunk(2, dim=-1)
            hidden = hidden + layer.down(F.silu(gate) * up, chosen)
        return hidden

    def _attention(
        self,
        turned: Float[Tensor, "tokens heads_and_kv_heads head"],
        layer: int,
        singles: _Singles | None,
        blocks: Sequence[_Block],
    ) -> Float[Tensor, "tokens attention_width"]:
        mixed = []
        # The queries of a group are the positions of one attention, so keys and values are never repeated.
        if singles is not None:
            query = turned[: singles.count, : self._heads].view(singles.count, self._kv_heads, -1, self._head_dim)
            keys, values = singles.keys[layer], singles.values[layer]
            if odd := query.shape[2] % 2:  # MKL multiplies one or three lines differently from one call to the next
                query = torch.cat((query, query[:, :, :1]), dim=2)
            attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=singles.mask)
            mixed.append((attended[:, :, :-1] if odd else attended).flatten(1))
        for block in blocks:
            count = block.end - block.begin
            query = turned[block.begin : block.end, : self._heads].view(count, self._kv_heads, -1, self._head_dim)
            keys, values = block.keys[layer], block.values[layer]
            grouped = query.permute(1, 2, 0, 3).flatten(1, 2)[None].expand(len(keys), -1, -1, -1)
            attended = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=block.mask)[0]
            by_head = attended.view(self._kv_heads, -1, count, self._head_dim)
            mixed.append(by_head.permute(2, 0, 1, 3).flatten(1))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def _lengthen(cache: DecoderCache, read: Mapping[int, Sequence[int]]) -> None:
    for row, ids in read.items():
        cache.lengths[row] += len(ids)


class _Gathered:
    """Some rows of a cache that are not adjacent. They are copied when they are asked for: after new tokens came."""

    def __init__(self, stored: Float[Tensor, "layers rows capacity kv_heads head"], rows: Tensor, keys: int) -> None:
        self._stored, self._rows, self._keys = stored, rows, keys

    def __getitem__(self, layer: int) -> Float[Tensor, "rows kv_heads keys head"]:
        return self._stored[layer][self._rows, : self._keys].transpose(1, 2)


def _adjacent(
    stored: Float[Tensor, "layers rows capacity kv_heads head"], rows: slice, keys: int, count: int
) -> tuple[Float[Tensor, "rows kv_heads keys head"], ...]:
    """Adjacent rows as attention reads them, by layer; a lone row as often as ``count`` says."""
    read = stored[:, rows, :keys].transpose(2, 3)
    return (read if read.shape[1] == count else read.expand(-1, count, -1, -1, -1)).unbind()


def _layer(block: nn.Module, name: str, adapters: AdapterStack) -> _Layer:
    """``name``: of the block, before those of its matrices."""
    assert isinstance(block, Block)  # for mypy

    def multiplied(*names: str) -> _Multiplied:
        matrices = {name + each: cast(nn.Linear, block.get_submodule(each)) for each in names}
        return _Multiplied(joint_product(list(matrices.values())), adapters.correction(matrices))

    return _Layer(
        _Norm(block.attention_norm),
        multiplied("attention.query", "attention.key", "attention.value"),
        multiplied("attention.output"),
        _Norm(block.feed_forward_norm),
        multiplied("feed_forward.gate", "feed_forward.up"),
        multiplied("feed_forward.down"),
    )


def _own_arithmetic(device: torch.device) -> AbstractContextManager[object]:
    """Whatever autocast the caller is under: texts are those that the server writes, and packed products know no other
    numbers than those of the weights."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
