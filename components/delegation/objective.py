"""The objective of delegation: learn the tokens that a selection leaves to the model, ``<CALL>`` for the others.

Selections rank the tokens of one forward pass over all ranks, so two devices delegate what one would. With gradient
accumulation every micro-batch has a budget of its own: its ``k`` tokens are the best of it, not of the whole step.
(Ranking the whole step would take its losses before the first backward, which is a second forward pass.) Selections
that decide token by token (``ntp``, ``defer``, ``ignore_facts``) do not depend on how a step is divided.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from components.delegation.auxiliary_models import AuxiliaryModel
from components.delegation.config import DelegationConfig
from components.delegation.evidence import of_all_ranks, statistics
from components.delegation.metrics import call_metrics
from components.delegation.selection import Selection, Statistics, select
from components.delegation.token_losses import COUNTERS, counted, token_losses
from components.delegation.validation import Validation
from components.training.config import TrainerConfig
from components.training.loader import Batch, mixed
from components.training.objectives.base import ForwardPass, Outputs, Ranks, TokenLosses
from kernels.cross_entropy import TokenStats


class Delegation:
    """Ground truth for kept tokens, ``<CALL>`` for delegated ones, nothing for dropped ones; all valid ones count."""

    def __init__(
        self,
        config: DelegationConfig,
        trainer: TrainerConfig,
        call_id: int,
        boundary_id: int,
        reference: AuxiliaryModel | None = None,
        helper: AuxiliaryModel | None = None,
    ) -> None:
        self.config = config
        self.plain = config.model_copy(update={"selection": "ntp"})
        self.seed = trainer.seed
        self.warmup_steps = int(config.warmup_fraction * trainer.max_steps)
        """Optimizer steps that delegate nothing yet."""
        self.call_id = call_id
        self.boundary_id = boundary_id
        self.reference = reference
        self.helper = helper
        self.counters = torch.zeros(len(COUNTERS), dtype=torch.long)
        self.validation = Validation()
        self._last: tuple[Tensor, Statistics, Selection] | None = None

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        """Select among the targets of all ranks, count them, and return what this rank's cost."""
        stats = outputs.token_stats(batch, self.call_id)
        evidence = self._evidence(batch, stats)
        everyone = of_all_ranks(evidence, where.ranks)
        config = self.plain if where.step < self.warmup_steps else self.config
        whole = select(everyone, config, self._draw(where, evidence.loss.device))
        tokens = counted(everyone.valid, whole)
        self.counters = self.counters.to(tokens.device) + tokens
        rows = len(evidence.valid)
        selection = whole.rows(slice(where.ranks.index * rows, (where.ranks.index + 1) * rows))
        self._last = call_odds(stats), evidence, selection
        return TokenLosses(token_losses(stats, selection, self.config.normalisation), evidence.valid.float())

    def metrics(self) -> dict[str, float]:
        """Counters, and what this rank's last forward pass says about P(CALL)."""
        if self._last is None:
            return self.totals()
        odds, evidence, selection = self._last
        calls = call_metrics(odds, evidence.loss, selection.delegated, evidence.factual, evidence.valid)
        return {**self.totals(), **calls}

    def totals(self) -> dict[str, float]:
        """The counters, over all ranks and also over what was trained before a resume."""
        return dict(zip(COUNTERS, map(float, self.counters.tolist()), strict=True))

    def start_validation(self, device: torch.device) -> None:
        self.validation.start(device)

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        stats = outputs.token_stats(batch, self.call_id)
        evidence = self._evidence(batch, stats)
        # The same draw each time: `random` and `fact` choose the same tokens, and the overlap says so.
        selection = select(evidence, self.config, self._draw(where, evidence.loss.device))
        self.validation.add(call_odds(stats), evidence, selection)

    def validation_metrics(self, ranks: Ranks) -> dict[str, float]:
        return self.validation.metrics(ranks)

    def state(self) -> dict[str, Any]:
        return {"counters": self.counters, "delegated_before": self.validation.delegated_before}

    def restore(self, state: dict[str, Any]) -> None:
        self.counters = state["counters"]
        self.validation.delegated_before = state["delegated_before"]

    def _evidence(self, batch: Batch, stats: TokenStats) -> Statistics:
        return statistics(batch, self.boundary_id, stats.nll_excl, self.reference, self.helper)

    def _draw(self, where: ForwardPass, device: torch.device) -> torch.Generator:
        """Chance that depends on seed, step and part of the step alone: a resumed run draws what it would have."""
        return torch.Generator(device).manual_seed(mixed(self.seed, where.step, where.part))


def call_odds(stats: TokenStats) -> Float[Tensor, "rows"]:
    """log P(CALL) / (1 - P(CALL)), which tells near-certain calls apart where P(CALL) is 1 in fp32."""
    assert stats.z_c is not None
    return (stats.z_c - stats.lse_x).detach()
