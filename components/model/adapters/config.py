"""Which adapter is trained. Imports neither torch nor numpy: the flow process reads it too."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Kind = Literal["none", "lora", "rslora", "dora", "pissa", "ia3", "loftq"]
Target = Literal["all", "attention", "feed_forward", "query", "key", "value", "output", "gate", "up", "down"]

_ATTENTION = ("query", "key", "value", "output")
_FEED_FORWARD = ("gate", "up", "down")
ROLES: Mapping[str, tuple[str, ...]] = {
    "all": (*_ATTENTION, *_FEED_FORWARD),
    "attention": _ATTENTION,
    "feed_forward": _FEED_FORWARD,
}
"""The matrices of a block by what they are for."""


class AdapterConfig(BaseModel):
    """A few weights to train instead of all of them. Needs `lacewing[peft]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind = "none"
    """none trains all weights. lora adds a product of two thin matrices to a matrix (arXiv:2106.09685); rslora scales
    it by the root of the rank (2312.03732); dora learns length and direction apart (2402.09353); pissa starts from the
    largest singular values (2404.02948); loftq from a base of 4 bits and what it lost (2310.08659); ia3 scales
    activations and has no rank (2205.05638)."""
    rank: PositiveInt = 4
    """Columns of the thin matrices."""
    alpha: PositiveFloat = 32.0
    """The product is scaled by alpha / rank; for rslora by alpha over the root of the rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the inputs of the thin matrices that a training step leaves out."""
    targets: list[Target] = Field(default=["all"], min_length=1)
    """Matrices of every block: by role (all, attention, feed_forward) or by name."""
    special_rows: bool = True
    """Train the rows of the special tokens in the embedding too: `<CALL>`, and the turns of a chat."""
    loftq_iterations: PositiveInt = 5
    """loftq: how often quantisation and the thin matrices are fitted to each other."""

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the targeted matrices within a block, each once."""
        named = {matrix for target in self.targets for matrix in ROLES.get(target, (target,))}
        return tuple(matrix for matrix in ROLES["all"] if matrix in named)

    @model_validator(mode="after")
    def _fits_kind(self) -> "AdapterConfig":
        if self.kind == "ia3" and self.dropout:
            raise ValueError(f"dropout={self.dropout} is for thin matrices, and ia3 has none: set it to 0")
        return self
