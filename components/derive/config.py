"""Settings of the stage ``derive``. Imports neither torch nor numpy: the flow process reads it too."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

Initialisation = Literal["mean_and_covariance", "mean", "random"]


class DeriveConfig(BaseModel):
    """How a model is made of the one that `start_from` names; presets: `derive=weights_in`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Literal["weights_in"] = "weights_in"
    """`weights_in` takes in weights that were made elsewhere: a folder of Hugging Face's Llama family, or a llama2.c
    file."""
    initialisation: Initialisation = "mean_and_covariance"
    """Embeddings of the tokens that are added: drawn from the normal distribution that the old ones have, their mean
    for all, or random as at the start of a training (deviation 0.02)."""
    context_length: NonNegativeInt = 0
    """Longest sequence of the result, in tokens, to save memory; 0: all that the given model can read."""
    tokenizer: str = ""
    """For a llama2.c file: its tokenizer. Empty: tok512.bin (for 512 tokens) or tokenizer.bin beside it."""
    seed: NonNegativeInt = 0
    """Decides what is drawn."""


class DeriveStageConfig(BaseModel):
    """What the stage `derive` reads: `start_from` and `derive` of the composed configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    start_from: str = ""
    """The given model; empty if it is an artifact, which is an input then."""
    derive: DeriveConfig = DeriveConfig()
    """What is made of it."""
