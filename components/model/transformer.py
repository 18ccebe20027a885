"""The decoder: Llama's architecture exactly, so that every Llama runtime can read the weights.

RMSNorm before each half of a block, rotary positions over half-split pairs, grouped-query attention, SwiGLU, one
matrix for input and output embeddings (or two), no biases (arXiv:2302.13971; grouped queries arXiv:2305.13245).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.model import ops
from components.model.compiled import row_operations
from components.model.config import ModelConfig, RopeScaling
from components.model.projection import Projection


class KeyValueCache:
    """Keys and values of the tokens seen so far, preallocated for ``capacity`` tokens.

    Memory: 2 * layers * batch * capacity * kv_heads * head_dim elements.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int = 1,
        capacity: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.capacity = capacity or config.context_length
        self.length = 0
        shape = (config.layers, batch, self.capacity, config.kv_heads, config.head_dim)
        self.keys: Float[Tensor, "layers batch capacity kv_heads head"] = torch.empty(shape, device=device, dtype=dtype)
        self.values: Float[Tensor, "layers batch capacity kv_heads head"] = torch.empty_like(self.keys)

    @classmethod
    def for_model(cls, model: "Transformer", batch: int = 1, capacity: int | None = None) -> "KeyValueCache":
        """An empty cache on the device and in the dtype of ``model``."""
        weight = model.output_weight
        return cls(model.config, batch, capacity, weight.device, weight.dtype)

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} tokens to {length}")
        self.length = length

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens of one layer; return that layer's keys and values including them.

        ``length`` moves on only when the model has passed all layers.
        """
        end = self.length + key.shape[1]
        self.keys[layer, :, self.length : end] = key
        self.values[layer, :, self.length : end] = value
        return self.keys[layer, :, :end], self.values[layer, :, :end]


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + epsilon) * weight, in fp32, then cast once for the products that follow.

    Left to itself, autocast would cast the same values again for each of query, key and value.
    """

    def forward(self, hidden: Float[Tensor, "batch seq width"]) -> Float[Tensor, "batch seq width"]:
        if row_operations.worthwhile(hidden):
            assert self.eps is not None
            normed = row_operations.rms_norm(hidden, self.weight, self.eps)
        else:
            normed = super().forward(hidden)
        return normed.to(ops.compute_dtype(hidden))


class Attention(nn.Module):
    """Causal grouped-query self-attention with rotary positions."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        kv_width = config.kv_heads * config.head_dim
        self.query = Projection(config.width, config.attention_width)
        self.key = Projection(config.width, kv_width)
        self.value = Projection(config.width, kv_width)
        self.output = Projection(config.attention_width, config.width)

    def forward(
        self,
        hidden: Float[Tensor, "batch seq width"],
        rotation: tuple[Tensor, Tensor],
        documents: ops.Documents | None,
        cache: KeyValueCache | None,
    ) -> Float[Tensor, "batch seq width"]:
        query = rotate(self.query(hidden).unflatten(-1, (-1, self.head_dim)), *rotation)
        key = rotate(self.key(hidden).unflatten(-1, (-1, self.head_dim)), *rotation)
        value = self.value(hidden).unflatten(-1, (-1, self.head_dim))
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)
        mixed = ops.attention(query, key, value, documents)
        output: Tensor = self.output(mixed.flatten(-2))
        return output


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Projection(config.width, config.hidden_width)
        self.up = Projection(config.width, config.hidden_width)
        self.down = Projection(config.hidden_width, config.width)

    def forward(self, hidden: Float[Tensor, "batch seq width"]) -> Float[Tensor, "batch seq width"]:
        gate, up = self.gate(hidden), self.up(hidden)
        active = row_operations.swiglu(gate, up) if row_operations.worthwhile(gate) else F.silu(gate) * up
        output: Tensor = self.down(active)
        return output


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_epsilon)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = RMSNorm(config.width, config.norm_epsilon)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        hidden: Float[Tensor, "batch seq width"],
        rotation: tuple[Tensor, Tensor],
        documents: ops.Documents | None,
        cache: KeyValueCache | None,
    ) -> Float[Tensor, "batch seq width"]:
        hidden = hidden + self.attention(self.attention_norm(hidden), rotation, documents, cache)
        output: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return output


class OutputEmbedding(nn.Linear):
    """The output head of a model whose input and output embeddings are apart: a row for every token."""


class Transformer(nn.Module):
    """Tokens in, final hidden states out; ``logits`` turns those into scores over the vocabulary.

    They are apart because the loss never needs all logits at once (see ``ops.linear_cross_entropy``).
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = None if config.tied else OutputEmbedding(config.width, vocab_size, bias=False)
        self.cosine: Tensor
        self.sine: Tensor
        cosine, sine = rotary_tables(config)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Normal weights of deviation 0.02; those that write to the residual stream less, by its depth (GPT-2)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes_residual = name.endswith(("output.weight", "down.weight"))
                deviation = 0.02 / (2 * self.config.layers) ** 0.5 if writes_residual else 0.02
                nn.init.normal_(parameter, std=deviation)

    @property
    def output_weight(self) -> Float[Tensor, "vocab width"]:
        """The output head, which is the input embedding if they are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        document_start: Int[Tensor, "batch seq"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch seq width"]:
        """Hidden states after the final norm.

        Arguments:
            tokens: ids. With a cache, only those that it does not hold yet.
            document_start: index of the first token of each token's document, no attention goes before it;
                ``None``: every row is one document.
            cache: grows by ``seq`` tokens.

        Raises ``ValueError`` if the tokens (and the cache) exceed the context or the cache's capacity.
        """
        offset = cache.length if cache is not None else 0
        end = offset + tokens.shape[1]
        if end > self.config.context_length:
            raise ValueError(
                f"{end} tokens exceed the context of {self.config.context_length}: shorten the sequence, "
                "or train with a larger model.context_length"
            )
        if cache is not None and (end > cache.capacity or document_start is not None):
            raise ValueError(f"a cache holds one document of at most {cache.capacity} tokens, got {end}")
        hidden = self.embedding(tokens)
        dtype = ops.compute_dtype(hidden)
        rotation = self.cosine[offset:end, None].to(dtype), self.sine[offset:end, None].to(dtype)
        documents = ops.packed(document_start, dtype, self.config.head_dim) if document_start is not None else None
        for block in self.blocks:
            hidden = block(hidden, rotation, documents, cache)
        if cache is not None:
            cache.length = end
        output: Tensor = self.norm(hidden)
        return output

    def logits(self, hidden: Float[Tensor, "batch seq width"]) -> Float[Tensor, "batch seq vocab"]:
        """Scores over the vocabulary."""
        return F.linear(hidden, self.output_weight)


def rotary_tables(config: ModelConfig) -> tuple[Float[Tensor, "context head"], Float[Tensor, "context head"]]:
    """Cosine and signed sine of every position's angles, for both halves of a head (arXiv:2104.09864).

    The sine of the first half is negative, so that ``rotate`` is two products and a swap of halves.
    """
    frequency = config.rope_theta ** -(torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim)
    frequency = scaled_frequency(frequency, config.rope_scaling)
    angle = torch.outer(torch.arange(config.context_length, dtype=torch.float32), frequency)
    return torch.cat((angle.cos(), angle.cos()), dim=-1), torch.cat((-angle.sin(), angle.sin()), dim=-1)


def scaled_frequency(frequency: Float[Tensor, " pairs"], scaling: RopeScaling) -> Float[Tensor, " pairs"]:
    """Rotary frequencies for longer texts, in radians per token.

    llama3: how much of a frequency stays grows from 0 to 1 with the number of its turns in the original context, from
    ``low_frequency_factor`` to ``high_frequency_factor`` (``_compute_llama3_parameters`` in transformers).
    """
    if scaling.kind == "none":
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    turns = scaling.original_context * frequency / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    stays = ((turns - low) / (high - low)).clamp(0, 1)
    return stays * frequency + (1 - stays) * frequency / scaling.factor


def rotate(
    heads: Float[Tensor, "batch seq heads head"],
    cosine: Float[Tensor, "*seq 1 head"],
    sine: Float[Tensor, "*seq 1 head"],
) -> Float[Tensor, "batch seq heads head"]:
    """Turn the pairs (i, i + head / 2) of every head by the angle of their position."""
    if row_operations.worthwhile(heads):
        return row_operations.rotate(heads, cosine, sine)
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((second, first), dim=-1) * sine
