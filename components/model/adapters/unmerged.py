"""What an adapter changes, apart from its model: so that many adapters can share one set of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from components.model.adapters.config import AdapterConfig
from components.model.transformer import Transformer

MOST = 1e6
"""Weights of an adapter are smaller. In a mixed batch its columns are computed for the tokens of others too, and left
out by a factor of zero, which an infinite number would survive."""


@dataclass(frozen=True)
class Change:
    """What an adapter makes of ``y = weight @ x``: ``outputs * (weight @ (inputs * x) + up @ down @ x)``.

    What is ``None`` is left out.
    """

    down: Float[Tensor, "rank inputs"] | None = None
    up: Float[Tensor, "outputs rank"] | None = None
    """The scale of the product is part of it."""
    inputs: Float[Tensor, " inputs"] | None = None
    outputs: Float[Tensor, " outputs"] | None = None


class Rows(NamedTuple):
    """Rows of the embedding and of the head that are replaced."""

    ids: Sequence[int]
    """Their tokens."""
    embedding: Float[Tensor, "ids width"]
    head: Float[Tensor, "ids width"]
    """The same as those of the embedding if the head is tied."""


@dataclass(frozen=True)
class Unmerged:
    """An adapter that is not put on its model."""

    changes: Mapping[str, Change]
    """By the name of the matrix, such as ``blocks.0.attention.query``."""
    rows: Rows


def part_shapes(config: AdapterConfig, matrix: str, weight: Float[Tensor, "outputs inputs"]) -> dict[str, torch.Size]:
    """What an adapter of this kind has for one matrix, by PEFT's names."""
    outputs, inputs = weight.shape
    if config.kind == "ia3":
        return {"ia3_l": torch.Size((1, inputs) if matrix == "down" else (outputs, 1))}
    thin = {
        "lora_A.weight": torch.Size((config.rank, inputs)),
        "lora_B.weight": torch.Size((outputs, config.rank)),
    }
    return thin | ({"lora_magnitude_vector": torch.Size((outputs,))} if config.kind == "dora" else {})


def change(config: AdapterConfig, weight: Float[Tensor, "outputs inputs"], parts: Mapping[str, Tensor]) -> Change:
    """What ``parts`` (see ``part_shapes``) make of the product by ``weight``."""
    if config.kind == "ia3":
        factors = parts["ia3_l"]
        return Change(inputs=factors[0]) if len(factors) < len(weight) else Change(outputs=factors[:, 0])
    scale = config.alpha / (config.rank**0.5 if config.kind == "rslora" else config.rank)
    down, up = parts["lora_A.weight"], scale * parts["lora_B.weight"]
    if config.kind != "dora":
        return Change(down, up)
    length = torch.addmm(weight.detach().float().cpu(), up, down).norm(dim=1)
    return Change(down, up, outputs=parts["lora_magnitude_vector"] / length)


def changed_rows(
    model: Transformer, ids: Sequence[int], embedding: Float[Tensor, "ids width"], head: Float[Tensor, "ids width"]
) -> Rows:
    """Those of the given rows that are not as the model has them."""
    at = torch.tensor(ids, dtype=torch.long)
    own = [weight.detach().float().cpu()[at] for weight in (model.embedding.weight, model.output_weight)]
    differ = (embedding != own[0]).any(dim=1) | (head != own[1]).any(dim=1)
    return Rows(at[differ].tolist(), embedding[differ], head[differ])
