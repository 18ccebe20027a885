"""The stage ``pretrain``: prepared shards in, a model folder that any Llama runtime can read out.

The loop is Lightning's Trainer over plain torch modules. If the stage's folder holds a checkpoint, training goes on
from it, with the batches it would have seen without the interruption.
"""

from collections.abc import Mapping

import torch

from components.core.artifact import Rows
from components.core.run import Run
from components.data.prepared import PreparedData
from components.model.transformer import Transformer
from components.training.config import PretrainConfig
from components.training.module import TrainingModule
from components.training.objectives.next_token import NextToken
from components.training.session import Session, nats_to_bits_per_byte
from components.training.trained import TrainedModel


def stage(run: Run, config: PretrainConfig, *, prepared: PreparedData) -> TrainedModel:
    """Train a decoder on the shards of ``prepared``. Raises what ``Session.train`` does."""
    session = Session.open(config)
    shards = prepared.shards()
    torch.manual_seed(config.trainer.seed)
    model = Transformer(config.model, shards.vocab_size)
    module = TrainingModule(model, config.trainer, NextToken(), nats_to_bits_per_byte(shards))
    return session.train(run, config, prepared, shards, module, "pretrain", rows=_rows)


def _rows(metrics: Mapping[str, float]) -> Rows:
    return [
        ("parameters", f"{metrics['parameters']:,.0f}"),
        ("tokens trained on", f"{metrics['tokens']:,.0f} at {metrics['tokens_per_second']:,.0f} tokens/s"),
        ("loss", f"{metrics['loss']:.3f} training, {metrics['validation_loss']:.3f} validation"),
    ]
