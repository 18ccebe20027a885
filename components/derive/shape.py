"""The shape of a given model, read without its weights. Light: the flow's process reads it too."""

from pathlib import Path

from components.core.errors import ArtifactError
from components.derive import llama2c_header
from components.model.config import ModelConfig
from components.model.llama_config import read_config


def given_shape(place: Path, context_length: int = 0) -> ModelConfig:
    """What the model in ``place``, a folder or a llama2.c file, is like with this context; 0: all of its own.

    Raises ``ArtifactError`` if it is no model that can be read, or if its context is shorter.
    """
    if is_llama2c(place):
        return shortened(llama2c_header.read_shape(place)[0], context_length)
    return read_config(place, context_length or None)[0]


def is_llama2c(place: Path) -> bool:
    """Whether ``place`` is to be read as a llama2.c file."""
    return place.is_file() and place.suffix == llama2c_header.SUFFIX


def shortened(config: ModelConfig, context_length: int) -> ModelConfig:
    """``config`` with this context; 0: its own."""
    if context_length > config.context_length:
        raise ArtifactError(f"context_length is {context_length}, but the model reads {config.context_length} tokens")
    return config.model_copy(update={"context_length": context_length or config.context_length})
