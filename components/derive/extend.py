"""A vocabulary made larger: a row for every new token, where the old tokens keep their logits.

New rows are drawn from the normal distribution that has the mean and the covariance of the old ones (Hewitt 2021,
"Initializing new word embeddings for pretrained language models"): so a new token is as likely as an old one of which
one knows nothing. Rows of small random numbers have logits near 0: in a model whose old logits lie far below, they take
probability from all.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from components.derive.config import Initialisation
from components.derive.given import StateDict

EMBEDDINGS = ("embedding.weight", "head.weight")
_DEVIATION = 0.02  # of a model that has learnt nothing


def extended(state: Mapping[str, Tensor], own: int, size: int, initialisation: Initialisation, seed: int) -> StateDict:
    """``state`` with ``size`` rows in its embeddings: the first ``own`` as they are, and new ones.

    Rows behind ``own`` that no token had, as where a vocabulary is padded to a round number, are left out. A new token
    has its place among the input rows and among the output rows by one draw, as the old tokens have.
    """
    embeddings = {name: state[name][:own] for name in EMBEDDINGS if name in state}
    grown = {
        name: torch.cat((rows, new_rows(rows, size - own, initialisation, seed))) for name, rows in embeddings.items()
    }
    return {**state, **grown}


def new_rows(
    rows: Float[Tensor, "old width"], count: int, initialisation: Initialisation, seed: int
) -> Float[Tensor, "new width"]:
    """``count`` rows to go behind ``rows``.

    ``noise @ centred / sqrt(old - 1)`` has the covariance of ``rows``, without a matrix of width by width.
    """
    chance = torch.Generator().manual_seed(seed)
    if initialisation == "random":
        return _DEVIATION * torch.randn(count, rows.shape[1], generator=chance)
    mean = rows.mean(dim=0)
    if initialisation == "mean":
        return mean.expand(count, -1)
    noise = torch.randn(count, len(rows), generator=chance)
    drawn: Tensor = mean + noise @ (rows - mean) / (len(rows) - 1) ** 0.5
    return drawn
