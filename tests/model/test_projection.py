"""A projection by oneDNN gives what ``nn.Linear`` gives, gradients included."""

import pytest
import torch
from torch import nn

from components.model.projection import Projection
from kernels import onednn


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 20), (20, 6)])
@pytest.mark.parametrize("frozen", [True, False])
def test_values_and_gradients_are_those_of_a_linear_layer(
    inputs: int, outputs: int, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, plain = Projection(inputs, outputs), nn.Linear(inputs, outputs, bias=False)
    plain.load_state_dict(layer.state_dict())
    found = []
    for module, slow in ((layer, True), (plain, False)):
        monkeypatch.setattr(onednn, "mkl_is_slow", lambda slow=slow: slow)
        module.weight.requires_grad_(not frozen)
        hidden = torch.randn(3, 5, inputs, generator=torch.Generator().manual_seed(1)).requires_grad_()
        output = module(hidden)
        output.square().sum().backward()
        found.append((output.detach(), hidden.grad, module.weight.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_under_autocast_it_computes_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        assert Projection(4, 4)(torch.ones(2, 4)).dtype == torch.bfloat16
