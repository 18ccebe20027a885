"""How many held-out answers the model gives word for word, as a criterion for which weights to keep.

Greedy decoding writes an answer word for word exactly where the likeliest token at every place, after the true ones
before it, is the true one. So a validation knows without generating. A place that states a fact also counts where the
model would rather ask than say the true token: the helper says it then.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.data.chats.columns import ASSISTANT
from components.delegation.columns import FACTUAL
from components.model import ops
from components.training.loader import IGNORED, Batch
from components.training.objectives.base import ForwardPass, Objective, Outputs, Ranks
from components.training.objectives.wrapped import WrappedObjective

WHOLE_ANSWERS = "validation_whole_answers"


class WholeAnswers(WrappedObjective):
    """``objective``, whose validation also reports the share of answers that are right to the last token."""

    def __init__(self, objective: Objective, call_id: int) -> None:
        super().__init__(objective)
        self.call_id = call_id
        self._counted = torch.zeros(2)

    def start_validation(self, device: torch.device) -> None:
        self._counted = torch.zeros(2, dtype=torch.float64, device=device)
        self.objective.start_validation(device)

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        said = batch.columns[ASSISTANT] & (batch.targets != IGNORED)
        right = self._right(batch, outputs).view_as(said)
        answer = numbered(said)
        answers, wrong = int(answer.max()), len(set(answer[said & ~right].tolist()))
        self._counted += torch.tensor([answers - wrong, answers], device=said.device)
        self.objective.validate(batch, outputs, where)

    def validation_metrics(self, ranks: Ranks) -> dict[str, float]:
        right, answers = ranks.gather(self._counted).sum(dim=0).tolist()
        share = {WHOLE_ANSWERS: right / answers} if answers else {}
        return {**self.objective.validation_metrics(ranks), **share}

    def _right(self, batch: Batch, outputs: Outputs) -> Bool[Tensor, "rows"]:
        targets = batch.targets.flatten()
        stats = ops.linear_token_stats(
            outputs.hidden,
            outputs.output_weight,
            targets,
            call_id=self.call_id,
            ignore_index=IGNORED,
            return_argmax=True,
        )
        assert stats.argmax is not None
        assert stats.z_c is not None
        said = stats.argmax == targets
        if FACTUAL not in batch.columns:
            return said
        return said | batch.columns[FACTUAL].flatten() & (stats.z_c > stats.z_y)


def numbered(said: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """For every token the number of its answer, from 1; 0 where ``said`` is false. A row begins a new answer."""
    before = torch.nn.functional.pad(said[:, :-1], (1, 0))
    begins = said & ~before
    return begins.flatten().cumsum(0).view_as(said) * said
