"""Any objective, and on replayed text what the base expects there ("learning without forgetting", arXiv:1606.09282).

    loss of a replayed token = its loss in the objective + weight * KL(base || model)

The tokens of a text say which word came; the base says of every word how likely it was. So a window of text holds the
model to far more of what it could do, and a hundredth of replay goes a long way. ``<CALL>`` is left out of both
distributions, as in the bits per byte of a text: learning to ask costs nothing here.

Windows without replayed text cost nothing; each with some costs one forward pass of the base, and keeps two matrices of
its tokens by the vocabulary for backward.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from components.data.chats.columns import ASSISTANT, LEARNT
from components.model.transformer import Transformer
from components.training.loader import Batch
from components.training.objectives.base import ForwardPass, Objective, Outputs, Ranks, TokenLosses


class Remembering:
    """``objective``, and ``weight`` times the divergence from ``base`` where a token is learnt that no assistant says.

    The weights of tokens, and so the validation, are those of ``objective``. ``base`` is frozen and has no state in a
    checkpoint: a resumed run reads it again.
    """

    def __init__(self, objective: Objective, base: Transformer, weight: float, call_id: int) -> None:
        self.objective = objective
        self.base = base.requires_grad_(False).eval()
        self.weight = weight
        self.call_id = call_id

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        found = self.objective.losses(batch, outputs, where)
        replayed = batch.columns[LEARNT] & ~batch.columns[ASSISTANT]
        windows = replayed.any(dim=1)
        if not windows.any():  # waits for the device, which spares the base most windows
            return found
        base = self.base.to(batch.tokens.device)
        with torch.no_grad():
            hidden = base(batch.tokens[windows], batch.document_start[windows])[replayed[windows]]
            expected = self._log_probabilities(hidden, base.output_weight)
        rows = replayed.flatten().nonzero().squeeze(1)
        said = self._log_probabilities(outputs.hidden[rows], outputs.output_weight)
        divergence = (expected.exp() * (expected - said)).sum(dim=1)
        return found._replace(losses=found.losses.index_add(0, rows, self.weight * divergence.to(found.losses.dtype)))

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

    def _log_probabilities(
        self, hidden: Float[Tensor, "rows width"], weight: Float[Tensor, "vocab width"]
    ) -> Float[Tensor, "rows others"]:
        """Of all tokens but ``<CALL>``."""
        others = torch.cat((weight[: self.call_id], weight[self.call_id + 1 :]))
        return (hidden @ others.T).float().log_softmax(dim=1)
