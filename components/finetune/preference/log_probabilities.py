"""Log-probabilities of whole answers, summed over their tokens by pair without a look at the data on the device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from components.finetune.preference.artifact import ANSWER, REFERENCE, Pairs
from components.model.transformer import Transformer
from components.training.loader import Batch, TokenColumns, ValidationBatches
from components.training.objectives.base import Outputs

_CHOSEN, _REJECTED = 0, 1


@dataclass(frozen=True)
class PairScores:
    """What is known of the pairs of a batch: a row for every pair that it could hold, so that shapes never change."""

    valid: Bool[Tensor, "pairs"]
    """Whether there is such a pair."""
    log_probability: Float[Tensor, "pairs 2"]
    """Of the chosen and of the rejected answer under the model, in nats."""
    reference: Float[Tensor, "pairs 2"]
    """The same under the base; zero if the batch does not hold it."""
    tokens: Float[Tensor, "pairs 2"]

    def margin(self, per_token: bool) -> Float[Tensor, "pairs"]:
        """How much more likely the chosen answer is than the rejected one, in nats (or nats per token)."""
        return _difference(self.log_probability, self.tokens, per_token)

    def gain(self, per_token: bool) -> Float[Tensor, "pairs"]:
        """How much of the margin the base did not have."""
        return _difference(self.log_probability - self.reference, self.tokens, per_token)


def pair_scores(batch: Batch, outputs: Outputs, call_id: int) -> PairScores:
    """The scores of the pairs of ``batch``, whose columns say which tokens are answers.

    ``<CALL>`` takes no part in the softmax: text never contains it, and a model that asks shall not pay for asking.
    """
    log_probability = -outputs.token_stats(batch, call_id).nll_excl
    answer = batch.columns[ANSWER]
    rows, length = answer.shape
    slots = length // 2 + 1  # an answer has two tokens at least, the end of the turn among them; slot 0 is no pair
    first = torch.arange(rows, device=answer.device)[:, None] * slots
    index = (first + answer.abs()).flatten()
    marks = answer.flatten()
    sides = torch.stack([marks > 0, marks < 0], dim=1)
    reference = batch.columns.get(REFERENCE, torch.zeros_like(answer, dtype=torch.float32)).flatten()
    terms = torch.stack([log_probability.float(), reference, torch.ones_like(reference)], dim=1)
    # Not multiplied by the side: what is no answer may be infinite, and infinite times zero is no number.
    each = torch.where(sides[:, None], terms[:, :, None], 0.0).flatten(1)
    sums = torch.zeros(rows * slots, each.shape[1], device=each.device).index_add(0, index, each).view(-1, 3, 2)
    return PairScores(sums[:, 2, _CHOSEN] > 0, sums[:, 0], sums[:, 1], sums[:, 2])


def _difference(
    values: Float[Tensor, "pairs 2"], tokens: Float[Tensor, "pairs 2"], per_token: bool
) -> Float[Tensor, "pairs"]:
    values = values / tokens.clamp(min=1) if per_token else values
    return values[:, _CHOSEN] - values[:, _REJECTED]


@torch.inference_mode()
def scored(
    model: Transformer,
    pairs: Pairs,
    split: str,
    columns: TokenColumns,
    batch_windows: int,
    report: Callable[[float], None],
) -> Iterator[tuple[Batch, PairScores]]:
    """Every batch of ``split`` in order, with the scores of its pairs, under the autocast that the caller has set."""
    shards = pairs.shards()
    whole = shards.splits[split]
    windows = (whole.n_tokens - 1) // pairs.context_length
    batches = ValidationBatches(
        whole, pairs.context_length, shards.boundary_id, batch_windows, windows, columns=columns
    )
    device = model.output_weight.device
    for done, batch in enumerate(batches, 1):
        moved = Batch(
            batch.tokens.to(device),
            batch.targets.to(device),
            batch.document_start.to(device),
            {name: values.to(device) for name, values in batch.columns.items()},
        )
        outputs = Outputs(model(moved.tokens, moved.document_start).flatten(0, 1), model.output_weight)
        yield batch, pair_scores(moved, outputs, pairs.call_id)
        report(done / len(batches.batches))
