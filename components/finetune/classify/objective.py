"""The objective of classification: the cross-entropy of the label of each text, and what the validation is like.

The network is trained by itself; the scores of the n-grams are added in the validation, as in use.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components.finetune.classify.columns import LABEL, TEXT, UNLABELLED
from components.finetune.classify.config import HeadConfig
from components.finetune.classify.head import Head
from components.training.loader import Batch, mixed
from components.training.objectives.base import ForwardPass, Outputs, Ranks, TokenLosses


class LabelCrossEntropy(nn.Module):
    """-log P(label) at the end of every text; all other targets have weight 0.

    With several labels a text, the mean over all labels of -log P(it has the label, or has it not).
    """

    def __init__(
        self,
        head: Head,
        config: HeadConfig,
        class_weights: Float[Tensor, "labels"],
        seed: int,
        ngram_scores: Float[Tensor, "texts labels"] | None = None,
    ) -> None:
        """``ngram_scores`` are those of the validation texts, if n-grams are used."""
        super().__init__()
        self.head = head
        self.config = config
        self.single = head.labels.kind == "single"
        self.seed = seed
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.ngram_scores: Tensor | None
        self.register_buffer("ngram_scores", ngram_scores, persistent=False)
        self.start_validation(class_weights.device)

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        pooled = self._pooled(batch, outputs)
        return self._losses(batch, self.head(self._dropped(pooled, where)).flatten(0, 1))

    def _pooled(self, batch: Batch, outputs: Outputs) -> Float[Tensor, "batch seq width"]:
        return self.head.pooled(outputs.hidden.view(*batch.tokens.shape, -1), batch.document_start)

    def _losses(self, batch: Batch, scores: Float[Tensor, "rows labels"]) -> TokenLosses:
        labels = batch.columns[LABEL].flatten(0, 1)
        smoothing = self.config.label_smoothing if self.training else 0.0
        if self.single:
            wanted = labels.long()
            weights = self.class_weights[wanted.clamp(min=0)] * (wanted != UNLABELLED)
            losses = F.cross_entropy(
                scores, wanted, ignore_index=UNLABELLED, reduction="none", label_smoothing=smoothing
            )
            return TokenLosses(losses * weights, weights)
        ends = (labels[:, 0] != UNLABELLED).float()
        smoothed = labels.clamp(min=0).float().lerp(torch.tensor(0.5, device=labels.device), smoothing)
        each = F.binary_cross_entropy_with_logits(scores, smoothed, pos_weight=self.class_weights, reduction="none")
        return TokenLosses(each.mean(dim=-1) * ends, ends)

    def _dropped(
        self, pooled: Float[Tensor, "batch seq width"], where: ForwardPass
    ) -> Float[Tensor, "batch seq width"]:
        """Dropout that depends on the place in the run alone, so that a resumed run drops the same."""
        if not self.training or not self.config.dropout:
            return pooled
        generator = torch.Generator(pooled.device)
        generator.manual_seed(mixed(self.seed, where.step, where.part, where.ranks.index) % 2**63)
        kept = torch.rand(pooled.shape, generator=generator, device=pooled.device) >= self.config.dropout
        return pooled * kept / (1 - self.config.dropout)

    def metrics(self) -> dict[str, float]:
        return {}

    def totals(self) -> dict[str, float]:
        return {}

    def start_validation(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, device=device)
        self._counts = torch.zeros(3, len(self.class_weights), dtype=torch.int64, device=device)
        self._texts = torch.zeros(2, dtype=torch.int64, device=device)

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        scores = self.head(self._pooled(batch, outputs)).flatten(0, 1)
        if self.ngram_scores is not None:  # rows where no text ends count for nothing, whatever is added
            scores = scores + self.ngram_scores[batch.columns[TEXT].flatten().long().clamp(min=0)]
        self._sums += torch.stack([column.sum() for column in self._losses(batch, scores)])
        said, true, ends = self._decisions(batch, scores)
        self._counts += torch.stack([(each & ends).sum(dim=0) for each in (said & true, said & ~true, ~said & true)])
        self._texts += torch.stack([((said == true).all(dim=-1, keepdim=True) & ends).sum(), ends.sum()])

    def _decisions(
        self, batch: Batch, scores: Float[Tensor, "rows labels"]
    ) -> tuple[Bool[Tensor, "rows labels"], Bool[Tensor, "rows labels"], Bool[Tensor, "rows 1"]]:
        """What the head says of every row, what is true, and where a text ends."""
        labels = batch.columns[LABEL].flatten(0, 1).long()
        if not self.single:
            return scores > 0, labels > 0, labels[:, :1] != UNLABELLED
        numbers = torch.arange(scores.shape[1], device=scores.device)
        best: Int[Tensor, "rows 1"] = scores.argmax(dim=-1, keepdim=True)
        return numbers == best, numbers == labels[:, None], labels[:, None] != UNLABELLED

    def validation_metrics(self, ranks: Ranks) -> dict[str, float]:
        nats, weight = ranks.gather(self._sums).sum(dim=0).tolist()
        right, said_only, true_only = ranks.gather(self._counts).sum(dim=0)
        whole, texts = ranks.gather(self._texts).sum(dim=0).tolist()
        f1 = 2 * right / (2 * right + said_only + true_only).clamp(min=1)
        return {
            "validation_loss": nats / weight,
            "validation_accuracy": whole / texts,
            "validation_macro_f1": float(f1.mean()),
        }

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass
