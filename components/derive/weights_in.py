"""``derive=weights_in``: somebody's weights and tokenizer become a model of this platform, with equal logits."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from components.core.errors import ArtifactError
from components.data.tokenizer import TextTokenizer
from components.derive.config import DeriveConfig
from components.derive.extend import EMBEDDINGS, extended
from components.derive.given import GivenModel, StateDict
from components.derive.llama2c import read_llama2c
from components.derive.llama_folder import read_folder
from components.derive.shape import is_llama2c, shortened
from components.derive.tokenizer import adapted, check_same_ids, size
from components.model.config import ModelConfig


@dataclass(frozen=True)
class Derived:
    """A model with its tokenizer, as the stage saves them."""

    config: ModelConfig
    state: StateDict
    tokenizer: Tokenizer
    roles: dict[str, str]
    """Which tokens are ``eos_token`` and ``pad_token``."""
    added: int
    """Tokens that the given model did not have."""


def weights_in(place: Path, config: DeriveConfig) -> Derived:
    """Take in the model in ``place``, a folder or a llama2.c file, and give it the reserved tokens.

    Raises ``ArtifactError`` for what is missing, damaged, does not belong together or would be computed differently.
    """
    given = read_given(place, config)
    tokenizer, roles = adapted(given.tokenizer, given.end, given.padding)
    own = check_same_ids(given.tokenizer, TextTokenizer(tokenizer, roles, place), place)
    _check(given, own, place)
    state = extended(given.state, own, size(tokenizer), config.initialisation, config.seed)
    return Derived(given.config, state, tokenizer, roles, size(tokenizer) - own)


def read_given(place: Path, config: DeriveConfig) -> GivenModel:
    """The model in ``place`` as it is."""
    if not is_llama2c(place):
        return read_folder(place, config.context_length or None)
    given = read_llama2c(place, config.tokenizer)
    shape = shortened(given.config, config.context_length)
    return GivenModel(shape, given.state, given.tokenizer, given.end, given.padding)


def _check(given: GivenModel, own: int, place: Path) -> None:
    rows = len(given.state[EMBEDDINGS[0]])
    if own > rows:
        raise ArtifactError(
            f"{place}: its tokenizer has {own} tokens and its model {rows}: they do not belong together"
        )
    broken = next((name for name, tensor in given.state.items() if not torch.isfinite(tensor).all()), None)
    if broken:
        raise ArtifactError(f"{place}: its tensor {broken} has values that are no finite numbers")
