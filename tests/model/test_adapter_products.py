"""LoRA's layer in few products: the values and gradients of PEFT's own, and what it keeps for backward."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from components.model.adapters.adapter import adapted
from components.model.adapters.config import AdapterConfig, Kind
from components.model.adapters.products import SummedLinear
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from tests.fakes import SPECIAL
from tests.model.conftest import VOCABULARY

SHAPE = ModelConfig(name="tiny", layers=1, width=32, hidden_width=72, heads=4, kv_heads=2, context_length=64)
MANY = torch.arange(3 * 50).reshape(3, 50) * 7 % VOCABULARY
"""Enough tokens that the sum of the matrices is the cheaper way."""


def model_with(kind: Kind = "lora", dropout: float = 0.0) -> Transformer:
    """With an adapter whose thin matrices are all far from zero."""
    torch.manual_seed(0)
    model = Transformer(SHAPE, VOCABULARY)
    adapted(model, AdapterConfig(kind=kind, rank=3, dropout=dropout), SPECIAL)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model


@contextmanager
def as_peft_computes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SummedLinear, "forward", Linear.forward)
        yield


def gradients(model: Transformer, bf16: bool = False) -> dict[str, Tensor]:
    """Of everything that is trained, and the hidden states."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model(MANY)
    (hidden.sin() * torch.linspace(-1, 1, hidden.shape[-1])).sum().backward()
    return {"hidden": hidden.detach()} | {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


@pytest.mark.parametrize("kind", ["lora", "rslora", "pissa", "loftq"])
def test_values_and_gradients_are_those_of_pefts_own_layer(kind: Kind) -> None:
    model = model_with(kind).double()
    ours = gradients(model)
    with as_peft_computes():
        theirs = gradients(model)
    assert len(ours) == 1 + 2 * 7 + 1
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-9, msg=name)


def test_in_bf16_the_gradients_are_as_near_to_those_in_fp32_as_pefts() -> None:
    model = model_with()
    exact, ours = gradients(model), gradients(model, bf16=True)
    with as_peft_computes():
        theirs = gradients(model, bf16=True)
    for name, gradient in exact.items():
        if "lora_" in name:
            size = gradient.norm()
            assert ours[name].dtype == torch.float32
            assert (ours[name] - gradient).norm() / size < max(0.02, 1.5 * (theirs[name] - gradient).norm() / size)


def test_no_copy_of_the_weights_waits_for_the_backward_pass() -> None:
    model = model_with()
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    shapes = {weight.shape for name, weight in model.named_parameters() if "base_layer" in name}
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        model(MANY)
    assert any(tensor.shape in shapes for tensor in kept)  # the frozen matrices themselves
    copies = [tensor.shape for tensor in kept if tensor.untyped_storage().data_ptr() not in own]
    assert not shapes.intersection(copies)


def test_few_tokens_are_computed_as_by_peft() -> None:
    model = model_with().eval()
    with torch.no_grad():
        ours = model(MANY[:1, :3])
        with as_peft_computes():
            assert torch.equal(ours, model(MANY[:1, :3]))


@pytest.mark.parametrize(("kind", "dropout"), [("dora", 0.0), ("ia3", 0.0), ("lora", 0.1)])
def test_what_is_no_sum_of_matrices_keeps_pefts_layer(kind: Kind, dropout: float) -> None:
    assert not summed(model_with(kind, dropout))
    assert len(summed(model_with())) == 7


def summed(model: nn.Module) -> list[SummedLinear]:
    return [part for part in model.modules() if isinstance(part, SummedLinear)]
