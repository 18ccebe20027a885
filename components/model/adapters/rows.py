"""Some rows of the embeddings trained, the others frozen.

A parametrisation of ``embedding.weight``: an output head that is tied to it reads the same property, so both ends see
the trained rows. PEFT's ``trainable_token_indices`` asks the model's config for ``tie_word_embeddings`` as if it were
a dict.
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


def train_rows(model: Transformer, ids: Sequence[int]) -> dict[str, TrainedRows]:
    """From here on train the rows ``ids`` of the embeddings, which are frozen otherwise; by Hugging Face's names."""
    rows = {}
    for name, end in _ends(model).items():
        rows[name] = TrainedRows(end.weight, ids)
        parametrize.register_parametrization(end, "weight", rows[name])
    return rows


def plain_rows(model: Transformer, keep: bool) -> None:
    """Make the weights of the embeddings plain ones again, with the trained rows or without."""
    for end in _ends(model).values():
        parametrize.remove_parametrizations(end, "weight", leave_parametrized=keep)


def _ends(model: Transformer) -> dict[str, nn.Embedding | nn.Linear]:
    """Where tokens go in and, unless that is the same matrix, out."""
    return {"embed_tokens": model.embedding} | ({} if model.head is None else {"lm_head": model.head})
