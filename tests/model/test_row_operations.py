import pytest
import torch
import torch.nn.functional as F

from components.model import row_operations
from components.model.config import ModelConfig
from components.model.transformer import rotary_tables, rotate


@pytest.mark.parametrize("rows", [2, 1500])  # within one part, and in several of which the last is short
def test_the_norm_has_the_values_and_gradients_of_torch(rows: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, rows, 24).requires_grad_()
    weight = torch.rand(24).requires_grad_()
    upstream = torch.randn_like(hidden)
    ours = row_operations.rms_norm(hidden, weight, 1e-3)
    torchs = F.rms_norm(hidden.double(), (24,), weight.double(), 1e-3).float()
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=1e-5)
    gradients = (torch.autograd.grad(normed, (hidden, weight), upstream) for normed in (ours, torchs))
    for of_ours, of_torch in zip(*gradients, strict=True):
        torch.testing.assert_close(of_ours, of_torch, atol=2e-5, rtol=2e-5)


def test_the_norm_of_a_row_of_zeros_is_zero_and_has_a_finite_gradient() -> None:
    hidden = torch.zeros(2, 8, requires_grad=True)
    normed = row_operations.rms_norm(hidden, torch.ones(8), 1e-5)
    (gradient,) = torch.autograd.grad(normed.sum(), hidden)
    assert not normed.any()
    assert gradient.isfinite().all()


def test_rotation_has_the_values_and_gradients_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    cosine, sine = (table[:20, None] for table in rotary_tables(ModelConfig(width=48, heads=3, context_length=32)))
    heads = torch.randn(2, 20, 3, 16).requires_grad_()
    upstream = torch.randn_like(heads)
    ours = row_operations.rotate(heads, cosine, sine)
    monkeypatch.setattr(row_operations, "worthwhile", lambda tensor: False)
    formula = rotate(heads, cosine, sine)
    torch.testing.assert_close(ours, formula)
    gradients = (torch.autograd.grad(turned, heads, upstream)[0] for turned in (ours, formula))
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(ours.norm(dim=-1), heads.norm(dim=-1))


def test_they_are_for_fp32_on_a_cpu_and_left_to_a_compiler_otherwise() -> None:
    assert row_operations.worthwhile(torch.zeros(1))
    assert not row_operations.worthwhile(torch.zeros(1, dtype=torch.bfloat16))
    assert not row_operations.worthwhile(torch.zeros(1, device="meta"))
