"""Any objective, over some of the targets only: those that a column of bits names.

The others become targets that are none (``IGNORED``), as behind the end of a text. So they cost no product with the
vocabulary's weights in the backward pass, carry no weight in the mean, and no objective needs to know of masks.
"""

from typing import Any

import torch

from components.training.loader import IGNORED, Batch
from components.training.objectives.base import ForwardPass, Objective, Outputs, Ranks, TokenLosses


class Masked:
    """``objective`` over the targets at which the column ``mask`` is true."""

    def __init__(self, objective: Objective, mask: str) -> None:
        self.objective = objective
        self.mask = mask

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        return self.objective.losses(self._masked(batch), outputs, where)

    def metrics(self) -> dict[str, float]:
        return self.objective.metrics()

    def totals(self) -> dict[str, float]:
        return self.objective.totals()

    def start_validation(self, device: torch.device) -> None:
        self.objective.start_validation(device)

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        self.objective.validate(self._masked(batch), outputs, where)

    def validation_metrics(self, ranks: Ranks) -> dict[str, float]:
        return self.objective.validation_metrics(ranks)

    def state(self) -> dict[str, Any]:
        return self.objective.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.objective.restore(state)

    def _masked(self, batch: Batch) -> Batch:
        return batch._replace(targets=torch.where(batch.columns[self.mask], batch.targets, IGNORED))
