"""The thin Lightning layer between decoder and objective: loss, optimizer, learning rate, clipping.

Serving needs none of it. The loss is normalised once per optimizer step. How many tokens of a step count is known only
when all its micro-batches have gone backward, so each is divided by what a step without masks would have, and the
gradients are corrected by expected / actual weight before they are clipped.
"""

import math
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor

from components.model.transformer import Transformer
from components.training.config import TrainerConfig
from components.training.loader import Batch, mixed
from components.training.objectives.base import ForwardPass, Objective, Outputs, Ranks
from components.training.optimizer import learning_rate_factor, optimizer


class TrainingModule(lightning.LightningModule):  # type: ignore[misc]
    """Training of a ``Transformer`` towards an objective."""

    def __init__(
        self, model: Transformer, config: TrainerConfig, objective: Objective, nats_to_bits_per_byte: float = math.nan
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.objective = objective
        self.nats_to_bits_per_byte = nats_to_bits_per_byte
        self.tokens_per_pass = config.micro_batch_size * model.config.context_length
        """Weight of a micro-batch that has no masked target."""
        self.correction: Float[Tensor, ""] = torch.tensor(1.0)
        """Expected over actual weight of the last optimizer step: exactly 1 if no target was masked."""
        self.gradient_norm: Float[Tensor, ""] = torch.tensor(math.nan)
        self.validation: dict[str, float] = {}
        """Metrics of the last validation, empty before the first."""
        self._weight: Float[Tensor, ""] | None = None

    def outputs(self, batch: Batch) -> Outputs:
        """What the model makes of every target, rows of the batch one after the other."""
        return Outputs(self.model(batch.tokens, batch.document_start).flatten(0, 1), self.model.output_weight)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of this micro-batch, scaled as if no target of the step were masked; see ``normalise``."""
        where = ForwardPass(self.global_step, batch_idx % self.config.accumulation, self._ranks())
        # What is drawn on the way, such as dropout, is a function of the step: a resumed run draws the same.
        torch.manual_seed(mixed(self.config.seed, where.step, where.part, where.ranks.index))
        losses, weights = self.objective.losses(batch, self.outputs(batch), where)
        weight = weights.sum(dtype=torch.float64)
        self._weight = weight if self._weight is None else self._weight + weight
        return losses.sum() / self.tokens_per_pass

    def normalise(self) -> None:
        """Make gradients those of sum(losses) / sum(weights) over all micro-batches and ranks of this step.

        Lightning has divided the losses by the number of micro-batches, and DDP has averaged over the ranks.
        """
        assert self._weight is not None, "an optimizer step follows at least one training step"
        ranks = self._ranks()
        weight = ranks.gather(self._weight).sum()
        expected = float(self.tokens_per_pass * self.config.accumulation * ranks.count)
        self.correction = torch.where(weight > 0, expected / weight, 0.0).float()
        self._weight = None
        # Multiplied by exactly 1 without masks, which changes no bit; asking first would wait for the device.
        torch._foreach_mul_([weight.grad for weight in self.parameters() if weight.grad is not None], self.correction)

    def on_validation_epoch_start(self) -> None:
        self.objective.start_validation(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.objective.validate(batch, self.outputs(batch), ForwardPass(-1, batch_idx, self._ranks()))

    def on_validation_epoch_end(self) -> None:
        metrics = self.objective.validation_metrics(self._ranks())
        loss = metrics["validation_loss"]
        factor = self.nats_to_bits_per_byte  # unknown where the loss is no likelihood of text
        bits = {} if math.isnan(factor) else {"validation_bits_per_byte": loss * factor}
        self.validation = {"validation_loss": loss, **bits, **metrics}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["objective"] = self.objective.state()
        checkpoint["state_dict"] = self.trained_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= self._frozen()
        self.objective.restore(checkpoint["objective"])

    def trained_state(self) -> dict[str, Any]:
        """The state of this module without frozen weights, which are as the run began."""
        frozen = self._frozen()
        return {name: value for name, value in self.state_dict().items() if name not in frozen}

    def load_trained_state(self, state: dict[str, Any]) -> None:
        """Go on with a ``trained_state``."""
        self.load_state_dict(self._frozen() | state)

    def configure_optimizers(self) -> Any:
        chosen = optimizer(self, self.config)
        schedule = torch.optim.lr_scheduler.LambdaLR(chosen, lambda step: learning_rate_factor(step, self.config))
        return {"optimizer": chosen, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        self.normalise()
        # Lightning refuses to clip for fused optimizers under mixed precision; without loss scaling that is needless.
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.config.gradient_clip, foreach=True)

    def _frozen(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.named_parameters() if not weight.requires_grad}

    def _ranks(self) -> Ranks:
        if self._trainer is None or self._trainer.world_size == 1:
            return Ranks()
        return Ranks(self.global_rank, self._trainer.world_size, self._trainer.strategy.all_gather)
