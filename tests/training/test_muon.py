from copy import deepcopy

import pytest
import torch
from torch import nn

from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import TrainerConfig
from components.training.muon import Muon, orthogonalised
from components.training.optimizer import muon, optimizer

MODEL = ModelConfig(layers=1, width=16, hidden_width=24, heads=2, kv_heads=1, context_length=8)
STEPS = TrainerConfig(learning_rate=1e-2, weight_decay=0.1)


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ orthogonalised(matrix) @ right.T
    assert torch.allclose(inner, inner.diagonal().diag(), atol=1e-4)
    # Three iterations raise all but the very smallest.
    assert 0.6 < inner.diagonal().median() < 1.3
    assert inner.diagonal().max() < 1.3


def test_the_direction_does_not_depend_on_the_length_of_the_gradient() -> None:
    matrix = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(orthogonalised(matrix), orthogonalised(1000 * matrix), atol=1e-5)
    assert torch.equal(orthogonalised(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_a_step_computes_in_the_dtype_of_the_weights() -> None:
    assert orthogonalised(torch.randn(4, 4)).dtype == torch.float32
    assert orthogonalised(torch.randn(4, 4, dtype=torch.float64)).dtype == torch.float64


def test_matrices_of_layers_take_orthogonal_steps_and_all_others_those_of_adamw() -> None:
    model = Transformer(MODEL, 32)
    twin = deepcopy(model)
    chosen = muon(model, STEPS)
    matrices, embeddings, vectors = (group["params"] for group in chosen.param_groups)
    assert {id(weight) for weight in embeddings} == {id(model.embedding.weight)}
    assert all(weight.ndim == 1 for weight in vectors)
    assert len(matrices) + len(embeddings) + len(vectors) == len(list(model.parameters()))
    peer = torch.optim.AdamW(
        [
            {"params": twin.embedding.weight},
            {"params": [weight for weight in twin.parameters() if weight.ndim == 1], "weight_decay": 0},
        ],
        lr=STEPS.learning_rate,
        weight_decay=STEPS.weight_decay,
        betas=(STEPS.beta1, STEPS.beta2),
        fused=True,
    )
    for seed in range(3):
        gradients(model, seed)
        gradients(twin, seed)
        chosen.step()
        peer.step()
    ours, theirs = dict(model.named_parameters()), dict(twin.named_parameters())
    assert torch.equal(ours["embedding.weight"], theirs["embedding.weight"])
    assert torch.equal(ours["norm.weight"], theirs["norm.weight"])
    moved = (ours["blocks.0.feed_forward.up.weight"] - theirs["blocks.0.feed_forward.up.weight"]).square().mean().sqrt()
    assert 0 < moved / STEPS.learning_rate < 3 * 0.2 * 1.3  # steps as large as AdamW's: a fifth of the rate each


def test_a_restored_optimizer_goes_on_bit_for_bit() -> None:
    model = Transformer(MODEL, 32)
    chosen = muon(model, STEPS)
    gradients(model, 0)
    chosen.step()
    twin = deepcopy(model)
    restored = muon(twin, STEPS)
    restored.load_state_dict(deepcopy(chosen.state_dict()))
    for seed in (1, 2):
        gradients(model, seed)
        gradients(twin, seed)
        chosen.step()
        restored.step()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_config_chooses() -> None:
    model = Transformer(MODEL, 32)
    assert isinstance(optimizer(model, TrainerConfig(optimizer="muon")), Muon)
    assert isinstance(optimizer(model, TrainerConfig(optimizer="adamw")), torch.optim.AdamW)
