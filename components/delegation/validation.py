"""What the validation split says about a model that delegates: losses by kind of token, and where it would call."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from components.delegation.metrics import call_metrics, mean_where, overlap
from components.delegation.selection import Selection, Statistics
from components.training.objectives.base import Ranks


class Validation:
    """Gathers the tokens of the validation batches, and remembers which of them were delegated the time before."""

    def __init__(self) -> None:
        self.delegated_before: Tensor | None = None
        """Which tokens the selection chose at the last validation; ``None`` before the first."""
        self._columns: list[Float[Tensor, "5 rows"]] = []
        self._device = torch.device("cpu")

    def start(self, device: torch.device) -> None:
        """Forget the tokens of the last validation."""
        self._columns, self._device = [], device

    def add(self, odds: Float[Tensor, "rows"], evidence: Statistics, selection: Selection) -> None:
        """Take up the tokens of a batch; ``odds``: log P(CALL) / (1 - P(CALL))."""
        columns = (odds, evidence.loss, selection.delegated, evidence.factual, evidence.valid)
        self._columns.append(torch.stack([column.float() for column in columns]))

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """Losses in nats, ``<CALL>`` left out, and the metrics of calls; without those of no tokens."""
        odds, loss, *masks = self._of_all_ranks(ranks)
        delegated, factual, valid = (mask > 0 for mask in masks)
        before = self.delegated_before
        self.delegated_before = delegated
        parts = {
            "validation_loss_factual": mean_where(loss, factual & valid),
            "validation_loss_non_factual": mean_where(loss, ~factual & valid),
            "validation_loss_kept": mean_where(loss, ~delegated & valid),
            "delegated_overlap": math.nan if before is None else overlap(delegated, before.to(delegated.device)),
        }
        return {
            "validation_loss": mean_where(loss, valid),
            **{name: value for name, value in parts.items() if not math.isnan(value)},
            **call_metrics(odds, loss, delegated, factual, valid),
        }

    def _of_all_ranks(self, ranks: Ranks) -> Float[Tensor, "5 rows"]:
        """The tokens of all ranks; those of a rank that had fewer batches are filled up with invalid ones."""
        columns = torch.cat(self._columns, dim=1) if self._columns else torch.zeros(5, 0, device=self._device)
        if ranks.count == 1:
            return columns
        most = ranks.gather(torch.tensor(columns.shape[1], device=self._device)).max()
        padded = torch.nn.functional.pad(columns, (0, int(most) - columns.shape[1]))
        return ranks.gather(padded).transpose(0, 1).flatten(1)
