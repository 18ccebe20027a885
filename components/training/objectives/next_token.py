"""Next-token prediction: the mean cross-entropy of all targets."""

from typing import Any

import torch

from components.training.loader import IGNORED, Batch
from components.training.objectives.base import ForwardPass, Outputs, Ranks, TokenLosses


class NextToken:
    """-log P(target) over all tokens; every valid target has weight 1."""

    def __init__(self) -> None:
        self._validation = torch.zeros(2)

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        return TokenLosses(outputs.token_stats(batch).nll_full, (batch.targets != IGNORED).flatten().float())

    def metrics(self) -> dict[str, float]:
        return {}

    def totals(self) -> dict[str, float]:
        return {}

    def start_validation(self, device: torch.device) -> None:
        self._validation = torch.zeros(2, device=device)

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        self._validation += torch.stack([column.sum() for column in self.losses(batch, outputs, where)])

    def validation_metrics(self, ranks: Ranks) -> dict[str, float]:
        nats, tokens = ranks.gather(self._validation).sum(dim=0).tolist()
        return {"validation_loss": nats / tokens}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass
