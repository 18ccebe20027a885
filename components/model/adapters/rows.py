"""Some rows of the embedding trained, the others frozen.

A parametrisation of ``embedding.weight``: the tied output head reads the same property, so both ends see the trained
rows. PEFT's ``trainable_token_indices`` asks the model's config for ``tie_word_embeddings`` as if it were a dict.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from components.model.transformer import Transformer


class TrainedRows(nn.Module):
    """The weight with rows ``ids`` replaced by ``rows``."""

    def __init__(self, weight: Float[Tensor, "vocab width"], ids: Sequence[int]) -> None:
        super().__init__()
        self.ids: Tensor
        self.register_buffer("ids", torch.tensor(ids, device=weight.device), persistent=False)
        self.rows: Float[Tensor, "ids width"] = nn.Parameter(weight.detach()[self.ids].clone())

    def forward(self, weight: Float[Tensor, "vocab width"]) -> Float[Tensor, "vocab width"]:
        return weight.index_copy(0, self.ids, self.rows)


def train_rows(model: Transformer, ids: Sequence[int]) -> TrainedRows:
    """From here on train the rows ``ids`` of the embedding and no others."""
    rows = TrainedRows(model.embedding.weight, ids)
    model.embedding.weight.requires_grad_(False)
    parametrize.register_parametrization(model.embedding, "weight", rows)
    return rows


def plain_rows(model: Transformer, keep: bool) -> None:
    """Make the embedding's weight a plain one again, with its trained rows or without."""
    parametrize.remove_parametrizations(model.embedding, "weight", leave_parametrized=keep)
