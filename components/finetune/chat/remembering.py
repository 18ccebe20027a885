"""Any objective, and what the base expects besides ("learning without forgetting", arXiv:1606.09282).

    loss of a token = its loss in the objective + weight * KL(base || model)

with one weight for replayed text, and one for what the assistant says, of which facts may have a part. The tokens of a
text say which word came; the base says of every word how likely it was. So a window of text holds the model to far more
of what it could do, and a hundredth of replay goes a long way. In answers, the base still expects the wordings that no
answer has: a model that must keep some probability for them need not unlearn them. ``<CALL>`` is left out of both
distributions, as in the bits per byte of a text: learning to ask costs nothing here.

A window with tokens of a weight costs one forward pass of the base, and two matrices of these tokens by the vocabulary.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from components.data.chats.columns import ASSISTANT, LEARNT
from components.data.special_tokens import SpecialTokens
from components.delegation.columns import FACTUAL
from components.model.transformer import Transformer
from components.training.loader import Batch
from components.training.objectives.base import ForwardPass, Objective, Outputs, TokenLosses
from components.training.objectives.wrapped import WrappedObjective


class Remembering(WrappedObjective):
    """``objective``, and the divergence from ``base``: ``on_text`` times where a learnt token is of replayed text,
    ``in_answers`` times where the assistant says it, and of that ``of_facts`` times where it is of a fact. The end of a
    turn is left out, for no text ever ended so.

    The weights of tokens, and so the validation, are those of ``objective``. ``base`` is frozen and has no state in a
    checkpoint: a resumed run reads it again.
    """

    def __init__(
        self,
        objective: Objective,
        base: Transformer,
        on_text: float,
        in_answers: float,
        of_facts: float,
        special: SpecialTokens,
    ) -> None:
        super().__init__(objective)
        self.base = base.requires_grad_(False).eval()
        self.on_text = on_text
        self.in_answers = in_answers
        self.of_facts = of_facts
        self.call_id = special.call
        self.end_id = special.im_end

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        found = self.objective.losses(batch, outputs, where)
        learnt, said = batch.columns[LEARNT], batch.columns[ASSISTANT]
        weight = torch.where(said, self.in_answers, self.on_text) * (learnt & (batch.targets != self.end_id))
        if self.of_facts != 1.0:
            weight = torch.where(said & batch.columns[FACTUAL], self.of_facts * weight, weight)
        windows = (weight > 0).any(dim=1)
        if not windows.any():  # waits for the device, which spares the base the windows that need none
            return found
        base = self.base.to(batch.tokens.device)
        rows = weight.flatten().nonzero().squeeze(1)
        with torch.no_grad():
            hidden = base(batch.tokens[windows], batch.document_start[windows])[weight[windows] > 0]
            expected = self._log_probabilities(hidden, base.output_weight)
        given = self._log_probabilities(outputs.hidden[rows], outputs.output_weight)
        costs = weight.flatten()[rows] * (expected.exp() * (expected - given)).sum(dim=1)
        return found._replace(losses=found.losses.index_add(0, rows, costs.to(found.losses.dtype)))

    def _log_probabilities(
        self, hidden: Float[Tensor, "rows width"], weight: Float[Tensor, "vocab width"]
    ) -> Float[Tensor, "rows others"]:
        """Of all tokens but ``<CALL>``."""
        others = torch.cat((weight[: self.call_id], weight[self.call_id + 1 :]))
        return (hidden @ others.T).float().log_softmax(dim=1)
