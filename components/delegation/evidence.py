"""What a selection may look at: the model's own losses, the labels of the batch, and what other models make of it."""

import torch
from jaxtyping import Float
from torch import Tensor

from components.delegation.auxiliary_models import AuxiliaryModel
from components.delegation.columns import FACTUAL, JUDGED
from components.delegation.selection import Statistics
from components.training.loader import IGNORED, Batch
from components.training.objectives.base import Ranks


def statistics(
    batch: Batch,
    boundary_id: int,
    loss: Float[Tensor, "rows"],
    reference: AuxiliaryModel | None = None,
    helper: AuxiliaryModel | None = None,
) -> Statistics:
    """The evidence for every target of ``batch``, row after row; ``loss`` is the model's own."""
    valid = batch.targets != IGNORED
    ends = batch.targets == boundary_id  # of documents, which no helper can know
    begins = batch.tokens == boundary_id  # nothing has been said yet
    known = helper.of(batch) if helper is not None else None
    return Statistics(
        loss=loss.detach(),
        factual=batch.columns[FACTUAL].flatten(),
        valid=valid.flatten(),
        eligible=(valid & ~ends & ~begins).flatten(),
        judged=batch.columns[JUDGED].flatten() if JUDGED in batch.columns else None,
        reference_loss=reference.of(batch).loss if reference is not None else None,
        helper_right=known.right if known is not None else None,
        helper_loss=known.loss if known is not None else None,
    )


def of_all_ranks(evidence: Statistics, ranks: Ranks) -> Statistics:
    """The evidence of one forward pass on every rank, the first rank's rows first."""
    if ranks.count == 1:
        return evidence
    given = {name: value for name, value in vars(evidence).items() if value is not None}
    packed = torch.stack([value.float() for value in given.values()])  # one message instead of one for each
    columns = ranks.gather(packed).transpose(0, 1).flatten(1)
    return Statistics(
        **{
            name: column if value.is_floating_point() else column > 0
            for (name, value), column in zip(given.items(), columns, strict=True)
        }
    )
