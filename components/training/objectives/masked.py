"""Any objective, over some of the targets only: those that a column of bits names.

The others become targets that are none (``IGNORED``), as behind the end of a text. So they cost no product with the
vocabulary's weights in the backward pass, carry no weight in the mean, and no objective needs to know of masks.
"""

import torch

from components.training.loader import IGNORED, Batch
from components.training.objectives.base import ForwardPass, Objective, Outputs, TokenLosses
from components.training.objectives.wrapped import WrappedObjective


class Masked(WrappedObjective):
    """``objective`` over the targets at which the column ``mask`` is true."""

    def __init__(self, objective: Objective, mask: str) -> None:
        super().__init__(objective)
        self.mask = mask

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        return self.objective.losses(self._masked(batch), outputs, where)

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        self.objective.validate(self._masked(batch), outputs, where)

    def _masked(self, batch: Batch) -> Batch:
        return batch._replace(targets=torch.where(batch.columns[self.mask], batch.targets, IGNORED))
