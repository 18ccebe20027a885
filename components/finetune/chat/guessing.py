"""Any objective, and what the assistant would say of a fact if it could not ask.

    loss of a factual token = its loss in the objective + weight * -log P(token | not CALL)

A token that is delegated teaches ``<CALL>`` and nothing else: the model alone, which must say something, was never
taught what. The second term says it, and has no gradient on the score of ``<CALL>``, so that asking stays as it is.

It costs one row of the vocabulary for every factual token that the assistant says.
"""

from components.data.chats.columns import ASSISTANT
from components.delegation.columns import FACTUAL
from components.model import ops
from components.training.loader import Batch
from components.training.objectives.base import ForwardPass, Objective, Outputs, TokenLosses
from components.training.objectives.wrapped import WrappedObjective


class Guessing(WrappedObjective):
    """``objective``, and ``weight`` times the loss without ``<CALL>`` of the facts that the assistant says.

    The weights of tokens, and so the validation, are those of ``objective``.
    """

    def __init__(self, objective: Objective, weight: float, call_id: int) -> None:
        super().__init__(objective)
        self.weight = weight
        self.call_id = call_id

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        found = self.objective.losses(batch, outputs, where)
        rows = (batch.columns[FACTUAL] & batch.columns[ASSISTANT]).flatten().nonzero().squeeze(1)
        targets = batch.targets.flatten()[rows]
        stats = ops.linear_token_stats(outputs.hidden[rows], outputs.output_weight, targets, call_id=self.call_id)
        costs = self.weight * stats.nll_excl
        return found._replace(losses=found.losses.index_add(0, rows, costs.to(found.losses.dtype)))
