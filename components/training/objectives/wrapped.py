"""An objective around another: what it does not change, it passes on."""

from typing import Any

import torch

from components.training.loader import Batch
from components.training.objectives.base import ForwardPass, Objective, Outputs, Ranks, TokenLosses


class WrappedObjective:
    """``objective`` as it is. A subclass overrides what it adds to."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        return self.objective.losses(batch, outputs, where)

    def metrics(self) -> dict[str, float]:
        return self.objective.metrics()

    def totals(self) -> dict[str, float]:
        return self.objective.totals()

    def start_validation(self, device: torch.device) -> None:
        self.objective.start_validation(device)

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        self.objective.validate(batch, outputs, where)

    def validation_metrics(self, ranks: Ranks) -> dict[str, float]:
        return self.objective.validation_metrics(ranks)

    def state(self) -> dict[str, Any]:
        return self.objective.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.objective.restore(state)
