"""The interface between the training loop and what it minimises.

    loss of an optimizer step = sum of the losses of all tokens / sum of their weights

An objective makes losses and weights of the statistics of every token; the training module sums both over all
micro-batches and processes of a step and divides once. So a step is the same however it is divided.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.model import ops
from components.training.loader import IGNORED, Batch
from kernels.cross_entropy import TokenStats


@dataclass(frozen=True)
class Outputs:
    """What the model makes of a batch, row after row. An objective computes from it what it needs, and no more."""

    hidden: Float[Tensor, "rows width"]
    """Final hidden states; row t predicts target t."""
    output_weight: Float[Tensor, "vocabulary width"]

    def token_stats(
        self, batch: Batch, call_id: int | None = None, chosen: Int[Tensor, "rows k"] | None = None
    ) -> TokenStats:
        """Statistics of every target; with ``call_id``, also as if that token did not exist.

        ``chosen`` are tokens whose logits are wanted too, as ``z_chosen``.
        """
        targets = batch.targets.flatten()
        return ops.linear_token_stats(
            self.hidden, self.output_weight, targets, call_id=call_id, chosen=chosen, ignore_index=IGNORED
        )


class TokenLosses(NamedTuple):
    """One row for every target of a batch. A mean over tokens has weight 1 at valid targets and 0 elsewhere."""

    losses: Float[Tensor, "rows"]
    """Terms of the numerator in nats, with gradients."""
    weights: Float[Tensor, "rows"]
    """Terms of the denominator, without gradients."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, as one of them sees them."""

    index: int = 0
    count: int = 1
    all_gather: Callable[[Tensor], Tensor] | None = None
    """A tensor of the same shape from every rank, one after the other; needed for more than one."""

    def gather(self, tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "ranks *shape"]:
        """The tensors of all ranks."""
        return tensor[None] if self.all_gather is None else self.all_gather(tensor)


class ForwardPass(NamedTuple):
    """Where in the run a forward pass is, and who makes it together with this process."""

    step: int
    """Optimizer step, from 0; -1 in validation."""
    part: int
    """Micro-batch of this rank within the step, or batch of the validation."""
    ranks: Ranks


class Objective(Protocol):
    """Decides what is learned. It may keep state of the run: counters, or what it saw last.

    An objective that is a ``torch.nn.Module`` trains its own weights beside the model's.
    """

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> TokenLosses:
        """Losses and weights of the targets of one micro-batch. Nothing here should wait for the device."""

    def metrics(self) -> dict[str, float]:
        """Metrics for a row of the history, besides loss, learning rate and gradient norm; may wait for the device."""

    def totals(self) -> dict[str, float]:
        """Metrics of the whole run for the record of the artifact, beside those that every run has."""

    def start_validation(self, device: torch.device) -> None:
        """Forget the last validation. ``device`` is where the batches of the next will be, if this rank has any."""

    def validate(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> None:
        """Read one batch of the validation split."""

    def validation_metrics(self, ranks: Ranks) -> dict[str, float]:
        """``validation_loss`` in nats per token, and other metrics, over the batches of all ranks."""

    def state(self) -> dict[str, Any]:
        """State for a checkpoint, so that a resumed run continues as if it had never stopped."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the ``state`` of a checkpoint, whose tensors may be on another device."""
