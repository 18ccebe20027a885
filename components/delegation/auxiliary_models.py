"""Predictions of other models on the training text: the reference model of Rho-1, and the helper.

A helper over the network or with an index cannot be asked about every token of a corpus. So there are two kinds in
training: the fact table of the closed world, which is right exactly where a value is stated, and a larger local model
with the same tokenizer.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from components.cascade.config import HelperConfig
from components.core.errors import InputError
from components.data.prepared import PreparedData
from components.data.special_tokens import TOKENIZER, SpecialTokens
from components.data.tokenizer import tokenizer_digest
from components.delegation.columns import FACTUAL, JUDGED
from components.delegation.config import SelectionName
from components.model import ops
from components.model.checkpoint import load_model
from components.model.llama_config import CONFIG
from components.model.transformer import Transformer
from components.training.loader import IGNORED, Batch
from components.training.trained import model_folder

_ALLOWED = (
    "allowed are helper.kind=world (the fact table of the closed world), helper.kind=auto on the closed world, and "
    "helper.kind=model with helper.model, the folder of a larger model with the same tokenizer"
)


class TokenPredictions(NamedTuple):
    """Predictions about the targets of a batch, one row each."""

    loss: Float[Tensor, "rows"]
    """Nats, ``<CALL>`` left out."""
    right: Bool[Tensor, "rows"]
    """Its likeliest token is the target."""


class AuxiliaryModel(Protocol):
    """Another model that reads the training batches."""

    def of(self, batch: Batch) -> TokenPredictions:
        """On the batch's device; nothing carries a gradient."""


class FactTable:
    """The fact table: certain of every token of a value, and without a prediction for all others.

    Values are what a judge labelled; without such labels they are the factual tokens. (The difference is the names of
    subjects: no table knows the subject of a document in advance.)
    """

    def of(self, batch: Batch) -> TokenPredictions:
        right = batch.columns.get(JUDGED, batch.columns[FACTUAL]).flatten()
        return TokenPredictions(torch.where(right, 0.0, torch.inf), right)


class FrozenModel:
    """A frozen model with the same tokenizer. It costs one forward pass of that model per step."""

    def __init__(self, model: Transformer, call_id: int) -> None:
        self.model = model.requires_grad_(False).eval()
        self.call_id = call_id

    @classmethod
    def loaded(cls, folder: Path, what: str, tokenizer: Path, context_length: int) -> "FrozenModel":
        """Read a model folder, or that of a stage that trained one.

        ``what`` names the setting in errors. Raises ``InputError`` if there is no model, its tokenizer is not the one
        of the folder ``tokenizer``, or its context is shorter; ``ArtifactError`` if its files are damaged.
        """
        place = model_folder(folder)
        if not (place / CONFIG).is_file():
            raise InputError(f"{what}={folder} is not a model folder: it has no {CONFIG}; give one that has")
        if not (place / TOKENIZER).is_file() or tokenizer_digest(place) != tokenizer_digest(tokenizer):
            raise InputError(
                f"{what}={folder} has another tokenizer than the training data: its losses would be of other tokens. "
                "Give a model that was trained on this data"
            )
        model = load_model(place)
        if model.config.context_length < context_length:
            raise InputError(
                f"{what}={folder} reads {model.config.context_length} tokens at most, but training has "
                f"model.context_length={context_length}: give a model with that context, or lower it"
            )
        return cls(model, SpecialTokens.read(tokenizer).call)

    def of(self, batch: Batch) -> TokenPredictions:
        model = self.model.to(batch.tokens.device)
        targets = batch.targets.flatten()
        with torch.no_grad():
            hidden = model(batch.tokens, batch.document_start).flatten(0, 1)
            stats = ops.linear_token_stats(
                hidden, model.output_weight, targets, call_id=self.call_id, ignore_index=IGNORED, return_argmax=True
            )
        assert stats.argmax is not None
        return TokenPredictions(stats.nll_excl, stats.argmax == targets)


def auxiliary_helper(
    config: HelperConfig, selection: SelectionName, prepared: PreparedData, context_length: int
) -> AuxiliaryModel:
    """The predictions of the configured helper on the training text.

    Raises ``InputError`` for helpers that cannot say it, and for a model that does not fit.
    """
    if config.kind == "model":
        if not config.model:
            raise InputError("helper.kind=model needs helper.model, the folder of the larger model")
        return FrozenModel.loaded(Path(config.model), "helper.model", prepared.tokenizer_folder, context_length)
    if config.kind in ("world", "auto") and prepared.fact_table is not None:
        return FactTable()
    why = "the data is not the closed world" if config.kind in ("world", "auto") else "it cannot score a training text"
    raise InputError(
        f"delegation.selection={selection} asks what the helper knows of every token, and helper.kind={config.kind} "
        f"cannot say ({why}); {_ALLOWED}. Or choose another selection, such as lacy"
    )
