"""How a method of finetuning trains an adapter instead of all weights: one line before the loop, one after it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from components.data.special_tokens import SpecialTokens
from components.model.adapters.adapter import adapted
from components.model.adapters.config import AdapterConfig
from components.model.adapters.files import write_and_merge
from components.model.transformer import Transformer


def adapting(model: Transformer, config: AdapterConfig, tokenizer_folder: Path) -> Callable[[Path], None]:
    """Make ``model`` ready to train, in place; returns what ``Session.train`` takes as ``merge_adapter``.

    Raises what ``adapted`` does.
    """
    special = SpecialTokens.read(tokenizer_folder)
    adapter = adapted(model, config, special)
    return _nothing_apart if adapter is None else partial(write_and_merge, adapter, special=special)


def _nothing_apart(folder: Path) -> None:
    """All weights were trained: there is no adapter."""
