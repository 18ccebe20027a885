"""The shape of the decoder. Imports neither torch nor numpy: the flow process reads it too."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from components.core.neutral import Neutral


class RopeScaling(BaseModel):
    """How the rotary frequencies of a model were changed so that it reads longer texts than it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["none", "linear", "llama3"] = "none"
    """`linear` divides every frequency by the factor (arXiv:2306.15595). `llama3` does so for long wavelengths only,
    with a smooth passage to short ones, which stay as they are."""
    factor: PositiveFloat = 1.0
    """By which frequencies are divided."""
    low_frequency_factor: PositiveFloat = 1.0
    """llama3: wavelengths longer than original_context / this are divided by the whole factor."""
    high_frequency_factor: PositiveFloat = 4.0
    """llama3: wavelengths shorter than original_context / this stay as they are."""
    original_context: PositiveInt = 8192
    """llama3: the context that the model was trained on before, in tokens."""

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "RopeScaling":
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor {self.low_frequency_factor:g} must be below high_frequency_factor "
                f"{self.high_frequency_factor:g}: between them lies the passage from one to the other"
            )
        return self


class ModelConfig(BaseModel):
    """Shape of a Llama decoder. The vocabulary belongs to the tokenizer and is not part of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(default="quick", min_length=1)
    """Name of the preset, for people; it travels with the weights."""
    layers: PositiveInt = 2
    """Transformer blocks."""
    width: PositiveInt = 128
    """Size of the residual stream; also of the token embeddings."""
    hidden_width: PositiveInt = 512
    """Inner size of the SwiGLU feed-forward."""
    heads: PositiveInt = 2
    """Query heads; the head dimension is width / heads, unless head_size says otherwise."""
    kv_heads: PositiveInt = 1
    """Key and value heads, each shared by heads / kv_heads query heads (grouped-query attention)."""
    context_length: PositiveInt = 256
    """Longest sequence, in tokens."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary position frequencies."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the mean square inside RMSNorm."""
    head_size: Annotated[NonNegativeInt, Neutral(0)] = 0
    """Size of one attention head; 0: width / heads."""
    tied: Annotated[bool, Neutral(True)] = True
    """One matrix for input and output embeddings; without it, the output has a matrix of its own."""
    rope_scaling: Annotated[RopeScaling, Neutral(RopeScaling())] = RopeScaling()
    """Change of the rotary frequencies for longer texts."""

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.head_size or self.width // self.heads

    @property
    def attention_width(self) -> int:
        """Size of all query heads together."""
        return self.heads * self.head_dim

    @model_validator(mode="after")
    def _shapes_agree(self) -> "ModelConfig":
        if not self.head_size and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.head_dim % 2:
            given = "head_size" if self.head_size else "width / heads"
            raise ValueError(
                f"{given} = {self.head_dim} is odd; rotary positions turn pairs, so choose an even head size"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self

    def parameters(self, vocab_size: int) -> int:
        """Number of weights with a vocabulary of ``vocab_size`` (tied input and output embeddings are one matrix)."""
        attention = self.width * self.head_dim * 2 * (self.heads + self.kv_heads)
        block = attention + 3 * self.width * self.hidden_width + 2 * self.width
        embeddings = vocab_size * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * block + self.width

    def training_flops_per_token(self, vocab_size: int, sequence_length: int) -> float:
        """Floating-point operations of forward and backward for one token.

        6 per weight that multiplies (norms do not, nor does an input embedding; a tied one does, as the output head)
        and causal attention at half its square: 6 * layers * attention_width * sequence_length. As in PaLM, appendix B
        (arXiv:2204.02311), with the causal half. Masked documents need less, but are counted as if unmasked.
        """
        norms = (2 * self.layers + 1) * self.width
        looked_up = 0 if self.tied else vocab_size * self.width
        multiplied = self.parameters(vocab_size) - norms - looked_up
        return 6.0 * multiplied + 6.0 * self.layers * self.attention_width * sequence_length
