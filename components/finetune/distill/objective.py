"""Cross-entropy of the text, mixed with the divergence from what the teacher expects (Hinton et al., arXiv:1503.02531).

    loss of a token = (1 - alpha) * -log P(target) + alpha * temperature^2 * divergence

Two choices of tokens: those of which the teacher is sure enough, and of them those on which the student needs it most,
which is where it differs most. Tokens that are not chosen learn from the text alone. Validation is plain cross-entropy,
so that bits per byte compare with those of any model.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from components.finetune.distill.artifact import TEACHER_IDS, TEACHER_LOGPROBS
from components.finetune.distill.config import DistillObjectiveConfig
from components.finetune.distill.divergence import divergence
from components.training.loader import IGNORED, Batch
from components.training.objectives.base import ForwardPass, Outputs, Ranks, TokenLosses
from kernels.cross_entropy import TokenStats


class Distillation:
    """Learns from a text and from a teacher's columns; every valid token has weight 1."""

    def __init__(self, config: DistillObjectiveConfig, call_id: int) -> None:
        self.config = config
        self.call_id = call_id
        self._validation = torch.zeros(3)

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        cfg, valid = self.config, (batch.targets != IGNORED).flatten()
        stats = self._stats(batch, outputs)
        apart = self._apart(batch, stats)
        taught = torch.where(self._chosen(apart.detach(), batch, valid), apart, 0.0)
        losses = (1 - cfg.alpha) * stats.nll_full + cfg.alpha * cfg.temperature**2 * taught
        return TokenLosses(losses, valid.float())

    def _stats(self, batch: Batch, outputs: Outputs) -> TokenStats:
        """Those of every target, with the student's logits at the teacher's top tokens."""
        return outputs.token_stats(batch, self.call_id, batch.columns[TEACHER_IDS].flatten(0, 1))

    def _apart(self, batch: Batch, stats: TokenStats) -> Float[Tensor, "rows"]:
        """The divergence at every target."""
        cfg = self.config
        assert stats.z_chosen is not None
        student = stats.z_chosen - stats.lse_x[:, None]
        return divergence(_teacher(batch), student, cfg.divergence, cfg.js_share, cfg.temperature)

    def _chosen(self, apart: Float[Tensor, "rows"], batch: Batch, valid: Bool[Tensor, "rows"]) -> Bool[Tensor, "rows"]:
        """The tokens that learn from the teacher."""
        sure = valid
        if self.config.least_confidence > 0:
            sure = valid & (_teacher(batch).exp().sum(dim=1) >= self.config.least_confidence)
        if self.config.need == 1:
            return sure
        needed = apart.masked_fill(~sure, -torch.inf)
        return sure & (needed >= needed.topk(max(1, round(self.config.need * len(needed)))).values[-1])

    def metrics(self) -> dict[str, float]:
        return {}

    def totals(self) -> dict[str, float]:
        return {}

    def start_validation(self, device: torch.device) -> None:
        self._validation = torch.zeros(3, device=device)

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        valid = (batch.targets != IGNORED).flatten()
        stats = self._stats(batch, outputs)
        apart = self._apart(batch, stats)
        self._validation += torch.stack([stats.nll_full.sum(), torch.where(valid, apart, 0.0).sum(), valid.sum()])

    def validation_metrics(self, ranks: Ranks) -> dict[str, float]:
        nats, apart, tokens = ranks.gather(self._validation).sum(dim=0).tolist()
        return {"validation_loss": nats / tokens, "divergence": apart / tokens}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def _teacher(batch: Batch) -> Float[Tensor, "rows k"]:
    """Log-probabilities of the teacher's top tokens."""
    return batch.columns[TEACHER_LOGPROBS].flatten(0, 1).float()
