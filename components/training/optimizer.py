"""The optimizer of a run, and the learning rate of every step."""

import math
from collections.abc import Iterator

import torch
from torch import nn

from components.model.transformer import OutputEmbedding
from components.training.config import TrainerConfig
from components.training.muon import Muon


def optimizer(model: nn.Module, config: TrainerConfig) -> torch.optim.Optimizer:
    """What ``config.optimizer`` asks for."""
    return muon(model, config) if config.optimizer == "muon" else adamw(model, config)


def is_matrix(weight: nn.Parameter) -> bool:
    """Not so a vector that is stored as one row or column, such as the scales of (IA)^3."""
    return weight.ndim >= 2 and min(weight.shape) > 1


def trained(model: nn.Module) -> Iterator[nn.Parameter]:
    """The weights that are not frozen."""
    return (weight for weight in model.parameters() if weight.requires_grad)


def muon(model: nn.Module, config: TrainerConfig) -> Muon:
    """Muon for the matrices of the layers; AdamW for embeddings, which have a row per token, and for norm weights."""
    by_token = (nn.Embedding, OutputEmbedding)
    embeddings = [weight for part in model.modules() if isinstance(part, by_token) for weight in trained(part)]
    rows = {id(weight) for weight in embeddings}
    parameters = [weight for weight in trained(model) if id(weight) not in rows]
    return Muon(
        [weight for weight in parameters if is_matrix(weight)],
        [
            {"params": embeddings},
            {"params": [weight for weight in parameters if not is_matrix(weight)], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
    )


def adamw(model: nn.Module, config: TrainerConfig) -> torch.optim.AdamW:
    """Fused AdamW (arXiv:1711.05101); weight decay for matrices only, not for norm weights."""
    parameters = list(trained(model))
    groups = [
        {"params": [weight for weight in parameters if is_matrix(weight)], "weight_decay": config.weight_decay},
        {"params": [weight for weight in parameters if not is_matrix(weight)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def learning_rate_factor(step: int, config: TrainerConfig) -> float:
    """Learning rate of optimizer step ``step`` (from 0) as a fraction of the peak: linear warm-up, then a cosine.

    The first step already learns (1 / warmup_steps), and the last step is the cosine's end.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    last = max(1, config.max_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / last)
    floor = config.minimum_learning_rate_fraction
    return floor + (1.0 - floor) * (1.0 + math.cos(math.pi * progress)) / 2.0
