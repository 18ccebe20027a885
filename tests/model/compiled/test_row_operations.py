import pytest
import torch
import torch.nn.functional as F

from components.model.compiled import row_operations
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


def test_places_may_differ_from_row_to_row() -> None:
    cosine, sine = (table[:8].view(2, 4, 1, 16) for table in rotary_tables(ModelConfig(width=48, heads=3)))
    heads = torch.randn(2, 4, 3, 16)
    turned = row_operations.rotate(heads, cosine, sine)
    for row in range(2):
        assert torch.equal(turned[row], row_operations.rotate(heads[row], cosine[row], sine[row]))


def test_swiglu_has_the_values_and_gradients_of_torch() -> None:
    torch.manual_seed(0)
    gate, up = ((3 * torch.randn(2, 300, 50)).requires_grad_() for _ in range(2))
    with torch.no_grad():
        gate[0, 0, :4] = torch.tensor([-1e4, 1e4, -88.5, 0.0])
    upstream = torch.randn_like(gate)
    ours, torchs = row_operations.swiglu(gate, up), (F.silu(gate.double()) * up.double()).float()
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=1e-5)
    gradients = (torch.autograd.grad(active, (gate, up), upstream) for active in (ours, torchs))
    for of_ours, of_torch in zip(*gradients, strict=True):
        torch.testing.assert_close(of_ours, of_torch, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("three_threads")
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    def everything() -> list[torch.Tensor]:
        torch.manual_seed(0)
        hidden, weight = torch.randn(700, 24, requires_grad=True), torch.rand(24, requires_grad=True)
        turned = row_operations.rotate(row_operations.rms_norm(hidden, weight, 1e-5).view(7, 100, 2, 12), *tables)
        active = row_operations.swiglu(turned, hidden.view(turned.shape))
        return [active.detach(), *torch.autograd.grad(active.square().sum(), (hidden, weight))]

    tables = [table[:100, None] for table in rotary_tables(ModelConfig(width=24, heads=2, context_length=100))]
    on_three = everything()
    torch.set_num_threads(1)
    assert all(torch.equal(one, many) for one, many in zip(everything(), on_three, strict=True))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_number_that_is_none_stays_visible(broken: float) -> None:
    hidden = torch.ones(3, 8)
    hidden[1, 2] = broken
    assert row_operations.rms_norm(hidden, torch.ones(8), 1e-5)[1].isnan().any()
    assert not row_operations.swiglu(hidden, hidden)[1, 2].isfinite()


def test_they_are_for_fp32_on_a_cpu_and_left_to_a_compiler_otherwise() -> None:
    assert row_operations.worthwhile(torch.zeros(1))
    assert not row_operations.worthwhile(torch.zeros(1, dtype=torch.bfloat16))
    assert not row_operations.worthwhile(torch.zeros(1, device="meta"))
