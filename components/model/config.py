"""The shape of the decoder. Imports neither torch nor numpy: the flow process reads it too."""

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


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
    """Query heads; the head dimension is width / heads."""
    kv_heads: PositiveInt = 1
    """Key and value heads, each shared by heads / kv_heads query heads (grouped-query attention)."""
    context_length: PositiveInt = 256
    """Longest sequence, in tokens."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary position frequencies."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the mean square inside RMSNorm."""

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads

    @model_validator(mode="after")
    def _shapes_agree(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.head_dim % 2:
            raise ValueError(
                f"width / heads = {self.head_dim} is odd; rotary positions turn pairs, so choose an even head size"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self

    def parameters(self, vocab_size: int) -> int:
        """Number of weights with a vocabulary of ``vocab_size`` (input and output embeddings are one matrix)."""
        attention = self.width * self.head_dim * 2 * (self.heads + self.kv_heads)
        block = attention + 3 * self.width * self.hidden_width + 2 * self.width
        return vocab_size * self.width + self.layers * block + self.width

    def training_flops_per_token(self, vocab_size: int, sequence_length: int) -> float:
        """Floating-point operations of forward and backward for one token.

        6 per weight that multiplies (norms do not; the tied embedding does once, as the output head) and causal
        attention at half its square: 6 * layers * width * sequence_length. As in PaLM, appendix B
        (arXiv:2204.02311), with the causal half. Masked documents need less, but are counted as if unmasked.
        """
        norms = (2 * self.layers + 1) * self.width
        return 6.0 * (self.parameters(vocab_size) - norms) + 6.0 * self.layers * self.width * sequence_length
