"""The thin Lightning layer over the decoder: loss, optimizer, learning rate, clipping. Serving needs none of it."""

import math
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor

from components.model import ops
from components.model.transformer import Transformer
from components.training.config import TrainerConfig
from components.training.loader import IGNORED, Batch
from components.training.optimizer import adamw, learning_rate_factor


class LanguageModel(lightning.LightningModule):  # type: ignore[misc]
    """Next-token training of a ``Transformer``."""

    def __init__(self, model: Transformer, config: TrainerConfig, nats_to_bits_per_byte: float = math.nan) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.nats_to_bits_per_byte = nats_to_bits_per_byte
        self.gradient_norm: Float[Tensor, ""] = torch.tensor(math.nan)
        self.validation: dict[str, float] = {}
        """Figures of the last validation, empty before the first."""
        self._totals: Tensor = torch.zeros(2)

    def losses(self, batch: Batch) -> Float[Tensor, "rows"]:
        """Negative log-likelihood of every target in nats, rows of the batch one after the other."""
        hidden = self.model(batch.tokens, batch.document_start)
        return ops.linear_cross_entropy(
            hidden.flatten(0, 1), self.model.output_weight, batch.targets.flatten(), ignore_index=IGNORED
        )

    def figures(self) -> dict[str, float]:
        """What a row of the history says beside loss, learning rate and gradient norm; may wait for the device."""
        return {}

    def totals(self) -> dict[str, float]:
        """Figures of the whole run for the record of the artifact, beside those that every run has."""
        return {}

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        return self.losses(batch).mean()

    def on_validation_epoch_start(self) -> None:
        self._totals = torch.zeros(2, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._totals += torch.stack([self.losses(batch).sum(), (batch.targets != IGNORED).sum()])

    def on_validation_epoch_end(self) -> None:
        totals: Tensor = self.trainer.strategy.reduce(self._totals, reduce_op="sum")
        nats, tokens = totals.tolist()
        loss = nats / tokens
        self.validation = {
            "validation_loss": loss,
            "validation_bits_per_byte": loss * self.nats_to_bits_per_byte,
        }

    def configure_optimizers(self) -> Any:
        optimizer = adamw(self.model, self.config)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, self.config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        # Lightning refuses to clip for fused optimizers under mixed precision; without loss scaling that is needless.
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.gradient_clip, foreach=True
        )
