"""The row functions on given logits, Triton's and PyTorch's: what they write, where, and what they leave alone."""

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from kernels.cross_entropy import configurations, cross_entropy, rows, rows_torch
from kernels.cross_entropy.reference import logit_token_stats
from kernels.cross_entropy.rules import Rules
from kernels.cross_entropy.statistics import Statistics, empty_statistics
from tests.kernels.cross_entropy.cases import IGNORED, error

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])


@pytest.fixture(autouse=True)
def several_blocks_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configurations, "_DEFAULT", configurations.RowConfig(block=64, warps=4))
    monkeypatch.setattr(rows_torch, "BLOCK_BYTES", 2 * 100 * 8)


@triton.jit
def _offset(out, row, stride):
    tl.store(out, rows.row_offset(row, stride))


def test_offsets_are_counted_in_64_bits() -> None:
    out = torch.zeros(1, dtype=torch.int64)
    _offset[(1,)](out, 65536, 50304)
    assert out.item() == 65536 * 50304 > 2**31


def test_every_statistic_and_every_logit_is_written_padding_included() -> None:
    """Buffers come with NaN in them, and padding with anything."""
    wide = torch.randn(4, 112, dtype=torch.float64)
    wide[:, 100:] = torch.nan
    target = torch.tensor([0, IGNORED, 99, 5])
    rules = Rules(columns=100, call=5, ignored=IGNORED)
    out = empty_statistics(4, wide, rules, argmax=True, entropy=True)
    for field in out:
        field.fill_(torch.nan if field.is_floating_point() else -1)
    rows.measure(wide, target, rules, out)
    right = logit_token_stats(wide[:, :100], target, call_id=5)
    for mine, theirs in zip(
        out, (right.lse_x, right.z_y, right.z_c, wide[:, :0], right.argmax, right.entropy), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    ones = torch.ones(4, dtype=torch.float64)
    rows.differentiate(wide, target, rules, out, ones, ones, ones, out=wide)
    assert not wide[:, 100:].any()
    assert not wide[1].any()
    assert wide.isfinite().all()


@pytest.mark.parametrize("functions", [rows, rows_torch])
def test_the_gradient_of_given_logits_is_autograds(functions: ModuleType) -> None:
    logits = torch.randn(5, 90, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, IGNORED, 89, 6, 6])
    rules = Rules(90, 6, IGNORED)
    stats = logit_token_stats(logits, target, call_id=6)
    upstream = torch.randn(3, 5, dtype=torch.float64)
    assert stats.z_c is not None
    outputs = torch.stack([stats.lse_x, stats.z_y, stats.z_c])
    (right,) = torch.autograd.grad((outputs * upstream).sum(), logits)
    nothing = torch.empty(0)
    kept = Statistics(stats.lse_x.detach(), stats.z_y.detach(), stats.z_c.detach(), nothing, nothing, nothing)
    given, apart = logits.detach().clone(), torch.full_like(logits, torch.nan)
    functions.differentiate(given, target, rules, kept, *upstream, out=apart)
    assert torch.equal(given, logits)
    torch.testing.assert_close(apart, right)
    functions.differentiate(given, target, rules, kept, *upstream, out=given)
    assert torch.equal(given, apart)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_plain_cross_entropy(impl: str, dtype: torch.dtype) -> None:
    logits = (4 * torch.randn(2, 3, 150, dtype=torch.float64)).to(dtype).requires_grad_()
    target = torch.tensor([[0, 149, IGNORED], [64, 63, 1]])
    exact = logits.detach().double().requires_grad_()
    right = F.cross_entropy(exact.flatten(0, 1), target.flatten(), reduction="none", ignore_index=IGNORED)
    weights = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    (right_gradient,) = torch.autograd.grad((right * weights).sum(), exact)

    given = logits * 1
    before = given.detach().clone()
    nll = cross_entropy(given, target, impl=impl)
    assert nll.shape == (2, 3)
    assert nll.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(nll.flatten().double(), right, rtol=close, atol=close)
    (gradient,) = torch.autograd.grad((nll.flatten().double() * weights).sum(), given)
    assert gradient.dtype == dtype
    plain = logits.detach().clone().requires_grad_()
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    theirs = F.cross_entropy(plain.flatten(0, 1).to(sums), target.flatten(), reduction="none", ignore_index=IGNORED)
    (their_gradient,) = torch.autograd.grad((theirs.double() * weights).sum(), plain)
    ulp = 16 * torch.finfo(sums).eps  # a logsumexp of about 12, rounded, is in the exponent of every probability
    assert error(gradient, right_gradient) <= 2 * error(their_gradient, right_gradient) + ulp
    assert torch.equal(given.detach(), before)


@BOTH
def test_logits_that_are_a_slice_of_padded_ones_and_their_rows_apart(impl: str) -> None:
    padded = torch.randn(3, 80, dtype=torch.float64)
    padded[:, 70:] = torch.nan
    padded.requires_grad_()
    target = torch.tensor([0, 69, 3])
    (mine,) = torch.autograd.grad(cross_entropy(padded[:, :70], target, impl=impl).sum(), padded)
    narrow = padded.detach()[:, :70].clone().requires_grad_()
    (right,) = torch.autograd.grad(F.cross_entropy(narrow, target, reduction="sum"), narrow)
    torch.testing.assert_close(mine[:, :70], right)
    assert not mine[:, 70:].any()


@BOTH
@pytest.mark.parametrize("size", [1e4, 3e38])
def test_huge_logits_and_a_certain_call_lose_nothing(impl: str, size: float) -> None:
    """log(exp(lse) - exp(z_c)) would be log(0) here; and a pivot of zero would overflow."""
    logits = torch.full((3, 130), -size)
    logits[0, 7] = size  # CALL is certain
    logits[1, 8] = size
    logits[2, 72] = size  # in the second block, after smaller ones in the first
    rules = Rules(130, 7, IGNORED)
    out = empty_statistics(3, logits, rules, argmax=True, entropy=True)
    functions = {"torch": rows_torch.measure, "triton": rows.measure}[impl]
    functions(logits.clone(), torch.tensor([8, 8, 8]), rules, out, **({"slopes": None} if impl == "torch" else {}))
    torch.testing.assert_close(out.lse_x, torch.tensor([-size + torch.log(torch.tensor(129.0)).item(), size, size]))
    assert torch.equal(out.z_c, logits[:, 7])
    assert out.argmax.tolist() == [0, 8, 72]
    torch.testing.assert_close(out.entropy, torch.tensor([129.0, 1.0, 1.0]).log())


@BOTH
def test_of_equal_logits_the_first_is_the_most_likely(impl: str) -> None:
    logits = torch.zeros(3, 200)
    for row, columns in enumerate([(5, 9, 70), (130, 66, 199), (4, 3, 67)]):  # in one group of loads, in other blocks
        logits[row, list(columns)] = 1.0
    rules = Rules(200, 3, IGNORED)
    out = empty_statistics(3, logits, rules, argmax=True, entropy=False)
    functions = {"torch": rows_torch.measure, "triton": rows.measure}[impl]
    functions(logits, torch.tensor([0, 0, 0]), rules, out, **({"slopes": None} if impl == "torch" else {}))
    assert out.argmax.tolist() == [5, 66, 4]


@pytest.mark.parametrize("functions", [rows, rows_torch])
@pytest.mark.parametrize("wrong", [70, -3])
def test_a_target_that_is_no_column_is_infinitely_bad_and_trains_nothing(functions: ModuleType, wrong: int) -> None:
    """What CUDA does, where asking would wait for the device; the public functions refuse it on the CPU."""
    logits = torch.randn(2, 70)
    target = torch.tensor([wrong, 4])
    rules = Rules(70, -1, IGNORED)
    out = empty_statistics(2, logits, rules, argmax=False, entropy=False)
    functions.measure(logits, target, rules, out, **({"slopes": None} if functions is rows_torch else {}))
    assert (out.lse_x - out.z_y)[0] == torch.inf
    assert (out.lse_x - out.z_y)[1].isfinite()
    functions.differentiate(logits, target, rules, out, torch.ones(2), -torch.ones(2), torch.ones(2), out=logits)
    assert not logits[0].any()
    assert logits[1].all()


def test_two_runs_are_bitwise_equal() -> None:
    logits = torch.randn(3, 200)
    target = torch.tensor([0, 199, 7])

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        given = logits.clone().requires_grad_()
        nll = cross_entropy(given, target, impl="triton")
        return nll.detach(), torch.autograd.grad(nll.sum(), given)[0]

    for one, two in zip(run(), run(), strict=True):
        assert torch.equal(one, two)


def test_every_configuration_in_the_table_computes_the_same() -> None:
    logits = torch.randn(2, 1500)
    target = torch.tensor([3, 1499])
    right = F.cross_entropy(logits, target, reduction="none")
    for config in {*configurations._TABLE.values(), configurations._DEFAULT}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(configurations, "_DEFAULT", config)
            torch.testing.assert_close(cross_entropy(logits, target, impl="triton"), right)
