"""Direct preference optimisation: raise the chosen answer over the rejected one, measured against the base.

    gain = (log P(chosen) - log P0(chosen)) - (log P(rejected) - log P0(rejected))
    dpo:  -log sigmoid(beta * gain)            (arXiv:2305.18290, equation 7)
    ipo:  (gain - 1 / (2 beta))^2              (arXiv:2310.12036, equation 17)

P0 is the base, whose log-probabilities lie in a column: no second model is in memory. With ``per_token`` every
log-probability is a mean over the tokens of its answer: length-normalised DPO, and for ipo what TRL computes.
The loss of a step is the mean over its pairs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from components.finetune.preference.config import ObjectiveConfig
from components.finetune.preference.log_probabilities import PairScores, pair_scores
from components.training.loader import Batch
from components.training.objectives.base import ForwardPass, Outputs, Ranks, TokenLosses


class Preference:
    """Compares the two answers of every pair; a pair has weight 1."""

    def __init__(self, config: ObjectiveConfig, call_id: int) -> None:
        self.config = config
        self.call_id = call_id
        self._validation = torch.zeros(5)

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        scores = pair_scores(batch, outputs, self.call_id)
        return TokenLosses(torch.where(scores.valid, self.pair_losses(scores), 0.0), scores.valid.float())

    def pair_losses(self, scores: PairScores) -> Float[Tensor, "pairs"]:
        """The loss of every pair."""
        cfg, gain = self.config, scores.gain(self.config.per_token)
        loss = -F.logsigmoid(cfg.beta * gain) if cfg.loss == "dpo" else (gain - 1 / (2 * cfg.beta)) ** 2
        if cfg.chosen_weight:
            loss = loss - cfg.chosen_weight * (scores.log_probability / scores.tokens.clamp(min=1))[:, 0]
        return loss

    def metrics(self) -> dict[str, float]:
        return {}

    def totals(self) -> dict[str, float]:
        return {}

    def start_validation(self, device: torch.device) -> None:
        self._validation = torch.zeros(5, device=device)

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        scores = pair_scores(batch, outputs, self.call_id)
        margin, gain = scores.margin(self.config.per_token), scores.gain(self.config.per_token)
        columns = torch.stack([torch.ones_like(gain), self.pair_losses(scores), margin > 0, gain > 0, gain])
        self._validation += torch.where(scores.valid, columns, 0.0).sum(dim=1)

    def validation_metrics(self, ranks: Ranks) -> dict[str, float]:
        pairs, *sums = ranks.gather(self._validation).sum(dim=0).tolist()
        names = ("validation_loss", "preference_accuracy", "reward_accuracy", "gain")
        return dict(zip(names, (each / pairs for each in sums), strict=True))

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass
