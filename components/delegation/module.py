"""Training with delegation: the selection, the objective and their figures on top of ``LanguageModel``.

A step is forward, statistics of every token, selection, loss. Selection ranks the tokens of one forward pass over all
ranks, so two devices delegate what one would; with gradient accumulation every micro-batch has its own budget.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from components.delegation.auxiliary_models import CALL_ID, AuxiliaryModel
from components.delegation.config import DelegationConfig
from components.delegation.metrics import call_figures, mean_where, overlap
from components.delegation.objective import COUNTERS, counted, token_losses
from components.delegation.selection import Selection, Statistics, select
from components.model import ops
from components.model.transformer import Transformer
from components.training.config import TrainerConfig
from components.training.loader import IGNORED, Batch, mixed
from components.training.module import LanguageModel
from kernels.cross_entropy import TokenStats

_LOOK = "delegated_at_last_look"


def statistics(
    batch: Batch,
    boundary_id: int,
    loss: Float[Tensor, "rows"],
    reference: AuxiliaryModel | None = None,
    helper: AuxiliaryModel | None = None,
) -> Statistics:
    """What a selection may look at, for every target of ``batch``, row after row; ``loss`` is the model's own."""
    assert batch.factual is not None, "batches come without labels"
    valid = batch.targets != IGNORED
    ends = batch.targets == boundary_id  # of documents, which no helper can know
    begins = batch.tokens == boundary_id  # nothing has been said yet
    known = helper.of(batch) if helper is not None else None
    return Statistics(
        loss=loss.detach(),
        factual=batch.factual.flatten(),
        valid=valid.flatten(),
        eligible=(valid & ~ends & ~begins).flatten(),
        judged=batch.judged.flatten() if batch.judged is not None else None,
        reference_loss=reference.of(batch).loss if reference is not None else None,
        helper_right=known.right if known is not None else None,
        helper_loss=known.loss if known is not None else None,
    )


class DelegatingModel(LanguageModel):
    """Learns the tokens that its selection leaves to it, and ``<CALL>`` for those that it hands over."""

    counters: Tensor

    def __init__(
        self,
        model: Transformer,
        config: TrainerConfig,
        delegation: DelegationConfig,
        boundary_id: int,
        nats_to_bits_per_byte: float = math.nan,
        reference: AuxiliaryModel | None = None,
        helper: AuxiliaryModel | None = None,
    ) -> None:
        super().__init__(model, config, nats_to_bits_per_byte)
        self.delegation = delegation
        self.plain = delegation.model_copy(update={"selection": "ntp"})
        self.boundary_id = boundary_id
        self.warmup_steps = int(delegation.warmup_fraction * config.max_steps)
        """Optimizer steps that delegate nothing yet."""
        # Plain attributes, no submodules: they are neither trained nor saved.
        self.reference = reference
        self.helper = helper
        self.register_buffer("counters", torch.zeros(len(COUNTERS), dtype=torch.long))
        self._last: tuple[TokenStats, Statistics, Selection] | None = None
        self._looks: list[Float[Tensor, "5 rows"]] = []
        self._delegated_before: Tensor | None = None

    def token_stats(self, batch: Batch) -> TokenStats:
        """Statistics of every target, rows of the batch one after the other."""
        hidden = self.model(batch.tokens, batch.document_start).flatten(0, 1)
        return ops.linear_token_stats(
            hidden, self.model.output_weight, batch.targets.flatten(), call_id=CALL_ID, ignore_index=IGNORED
        )

    def losses(self, batch: Batch) -> Float[Tensor, "rows"]:
        """Negative log-likelihood of every target in nats when ``<CALL>`` cannot occur: text never contains it."""
        return self.token_stats(batch).nll_excl

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        return self.objective(batch, self.global_step, batch_idx % self.config.accumulation)

    def objective(self, batch: Batch, step: int, part: int) -> Float[Tensor, ""]:
        """Loss of one forward pass, part ``part`` of optimizer step ``step``; counts its tokens."""
        stats = self.token_stats(batch)
        evidence = self._evidence(batch, stats)
        everyone = self._of_all_ranks(evidence)
        config = self.plain if step < self.warmup_steps else self.delegation
        whole = select(everyone, config, self._draw(step, part))
        self.counters += counted(everyone.valid, whole)
        rows = len(evidence.valid)
        first = self.global_rank * rows if len(everyone.valid) > rows else 0
        selection = whole.rows(slice(first, first + rows))
        self._last = stats.detached(), evidence, selection
        losses = token_losses(stats, selection, self.delegation.normalisation)
        return losses.sum() / evidence.valid.sum().clamp_min(1)

    def figures(self) -> dict[str, float]:
        """Counters, and what this rank's last forward pass says about P(CALL)."""
        if self._last is None:
            return self.totals()
        stats, evidence, selection = self._last
        figures = call_figures(call_odds(stats), evidence.loss, selection.delegated, evidence.factual, evidence.valid)
        return {**self.totals(), **figures}

    def totals(self) -> dict[str, float]:
        """The counters, over all ranks and also over what was trained before a resume."""
        return dict(zip(COUNTERS, map(float, self.counters.tolist()), strict=True))

    def on_validation_epoch_start(self) -> None:
        self._looks = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        stats = self.token_stats(batch)
        evidence = self._evidence(batch, stats)
        # The same draw at every look: `random` and `fact` choose the same tokens, and overlap says so.
        selection = select(evidence, self.delegation, self._draw(-1, batch_idx))
        columns = (call_odds(stats), evidence.loss, selection.delegated, evidence.factual, evidence.valid)
        self._looks.append(torch.stack([column.float() for column in columns]))

    def on_validation_epoch_end(self) -> None:
        odds, loss, *masks = self._all_looks()
        delegated, factual, valid = (mask > 0 for mask in masks)
        mean = mean_where(loss, valid)
        parts = {
            "validation_loss_factual": mean_where(loss, factual & valid),
            "validation_loss_non_factual": mean_where(loss, ~factual & valid),
            "validation_loss_kept": mean_where(loss, ~delegated & valid),
            "delegated_overlap": overlap(delegated, self._delegated_before)
            if self._delegated_before is not None
            else math.nan,
        }
        self._delegated_before = delegated
        self.validation = {
            "validation_loss": mean,
            "validation_bits_per_byte": mean * self.nats_to_bits_per_byte,
            **{name: value for name, value in parts.items() if not math.isnan(value)},
            **call_figures(odds, loss, delegated, factual, valid),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_LOOK] = self._delegated_before

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        before = checkpoint[_LOOK]
        self._delegated_before = before.to(self.device) if before is not None else None

    def _evidence(self, batch: Batch, stats: TokenStats) -> Statistics:
        return statistics(batch, self.boundary_id, stats.nll_excl, self.reference, self.helper)

    def _draw(self, step: int, part: int) -> torch.Generator:
        """Chance that depends on seed, step and part of the step alone: a resumed run draws what it would have."""
        return torch.Generator(self.device).manual_seed(mixed(self.config.seed, step, part))

    def _of_all_ranks(self, evidence: Statistics) -> Statistics:
        if self._ranks == 1:
            return evidence
        given = {name: value for name, value in vars(evidence).items() if value is not None}
        packed = torch.stack([value.float() for value in given.values()])  # one message instead of one for each
        gathered: Tensor = self.trainer.strategy.all_gather(packed)
        columns = gathered.transpose(0, 1).flatten(1)
        return Statistics(
            **{
                name: column if value.is_floating_point() else column > 0
                for (name, value), column in zip(given.items(), columns, strict=True)
            }
        )

    def _all_looks(self) -> Float[Tensor, "5 rows"]:
        """The validation batches of all ranks; those of a rank that had fewer are filled up with invalid rows."""
        looks = torch.cat(self._looks, dim=1) if self._looks else torch.zeros(5, 0, device=self.device)
        if self._ranks == 1:
            return looks
        batches = -(-self.config.validation_batches // self._ranks)  # the most that one rank reads
        rows = batches * self.config.micro_batch_size * self.model.config.context_length
        padded = torch.zeros(len(looks), rows, device=looks.device)
        padded[:, : looks.shape[1]] = looks
        gathered: Tensor = self.trainer.strategy.all_gather(padded)
        return gathered.transpose(0, 1).flatten(1)

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size if self._trainer is not None else 1


def call_odds(stats: TokenStats) -> Float[Tensor, "rows"]:
    """log P(CALL) / (1 - P(CALL)), which tells near-certain calls apart where P(CALL) is 1 in fp32."""
    assert stats.z_c is not None
    return (stats.z_c - stats.lse_x).detach()
