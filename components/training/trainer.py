"""Lightning's Trainer as this project uses it: no logger, no bar, no checkpoints but our own, and no adverts."""

import logging
import warnings
from pathlib import Path
from types import MappingProxyType

import lightning
import torch
from torch.utils.data import DataLoader

from components.data.shards import ShardSet
from components.training.checkpoints import AtomicCheckpointIO
from components.training.config import PretrainConfig, TrainerConfig
from components.training.loader import Alter, Batch, TokenColumns, TrainingBatches, ValidationBatches, training_order


def lightning_trainer(
    config: TrainerConfig, device: torch.device, precision: str, folder: Path, callbacks: list[lightning.Callback]
) -> lightning.Trainer:
    """A Trainer for one run; validation and checkpoints are counted in optimizer steps."""
    _quiet()
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else "auto",
        precision=precision,
        max_steps=config.max_steps,
        max_epochs=-1,  # our epochs are inside the loader
        accumulate_grad_batches=config.accumulation,
        val_check_interval=config.validate_every_steps * config.accumulation,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


class ShardData(lightning.LightningDataModule):  # type: ignore[misc]
    """Loaders that start at the Trainer's current step, which after a resume is the checkpoint's.

    Raises ``InputError`` at construction if the corpus is smaller than one batch. Batches are cut from memory maps in
    the training process: at a few microseconds a sequence, worker processes would cost more than they save.
    """

    def __init__(
        self,
        shards: ShardSet,
        config: PretrainConfig,
        ranks: int = 1,
        columns: TokenColumns = MappingProxyType({}),
        alter: Alter | None = None,
    ) -> None:
        super().__init__()
        trainer = config.trainer
        self.config = config
        self.shards = shards
        self.ranks = ranks
        self.columns = columns
        self.alter = alter
        self.order = training_order(
            shards.splits["train"],
            config.model.context_length,
            trainer.batch_size,
            trainer.micro_batch_size,
            trainer.seed,
            ranks,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        return DataLoader(
            TrainingBatches(
                self.shards.splits["train"],
                self.order,
                self.config.model.context_length,
                self.shards.boundary_id,
                rank=self.trainer.global_rank,
                start_step=self.trainer.global_step,
                stop_step=self.config.trainer.max_steps,
                columns=self.columns,
                alter=self.alter,
            ),
            batch_size=None,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        return DataLoader(
            ValidationBatches(
                self.shards.splits["validation"],
                self.config.model.context_length,
                self.shards.boundary_id,
                self.config.trainer.micro_batch_size,
                self.config.trainer.validation_batches,
                rank=self.trainer.global_rank,
                ranks=self.ranks,
                columns=self.columns,
            ),
            batch_size=None,
        )


def _quiet() -> None:
    """Drop Lightning's tips, device listings and advice about loader workers; errors still come through."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
