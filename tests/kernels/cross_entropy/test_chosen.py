"""Logits at chosen columns and their gradients, against gathering from the whole matrix."""

import pytest
import torch
from torch import Tensor

from kernels.cross_entropy import configurations, linear, linear_token_stats, reference
from kernels.cross_entropy.chosen import add_to_slopes_
from tests.kernels.cross_entropy.cases import Case, as_leaves, case, error, gradients, outputs

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
MODES = pytest.mark.parametrize("mode", ["save", "recompute"])
COLUMNS, CALL = 45, 3


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one ragged, and several blocks a row."""
    monkeypatch.setattr(linear, "CHUNK_ROWS", {"cpu": 4, "cuda": 4})
    monkeypatch.setattr(configurations, "_DEFAULT", configurations.RowConfig(block=256, warps=4))


def awkward(given: Case, k: int = 4) -> Tensor:
    """Columns that are the target, CALL, the last real one, and the same as another."""
    chosen = torch.randint(COLUMNS, (len(given.target), k), generator=torch.Generator().manual_seed(1))
    chosen[0] = torch.tensor([given.target[0], 7, 7, CALL])
    chosen[2] = given.target[2]
    chosen[4, :2] = COLUMNS - 1
    return chosen


@BOTH
@MODES
@pytest.mark.parametrize("call_id", [None, CALL])
def test_values_and_gradients_in_fp64(impl: str, mode: str, call_id: int | None) -> None:
    given = case(7, COLUMNS, padding=3)
    given.target[2] = CALL
    options = {"call_id": call_id, "n_cols": COLUMNS, "chosen": awkward(given)}
    right = reference.linear_token_stats(*given, **options)
    torch.testing.assert_close(right.z_chosen, (given.x @ given.weight.T).gather(1, options["chosen"]))
    ours = linear_token_stats(*given, **options, mode=mode, impl=impl)
    for mine, theirs in zip(outputs(ours), outputs(right), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    expected = gradients(given, right)
    for mine, theirs in zip(gradients(given, ours), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)
    assert not expected[0][[1, 3]].any()
    assert not expected[1][COLUMNS:].any()


@BOTH
@MODES
@pytest.mark.parametrize("upstream", [0.0, 1e-30, -1e-12])
def test_gradients_of_chosen_logits_do_not_need_one_of_the_logsumexp(impl: str, mode: str, upstream: float) -> None:
    given = case(7, COLUMNS)
    chosen = awkward(given)
    factors = torch.linspace(-1, 1, chosen.numel(), dtype=torch.float64).view(chosen.shape)
    found = []
    for stats in (
        linear_token_stats(*given, chosen=chosen, mode=mode, impl=impl),
        reference.linear_token_stats(*given, chosen=chosen),
    ):
        assert stats.z_chosen is not None
        loss = (stats.z_chosen * factors).sum() + upstream * stats.lse_x.sum()
        found.append(torch.autograd.grad(loss, (given.x, given.weight)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_errors_stay_within_those_of_torch(impl: str, dtype: torch.dtype) -> None:
    given = case(5, 192, dtype, width=16)
    chosen = torch.randint(192, (5, 8))
    exact = as_leaves(given, torch.float64)
    right = reference.linear_token_stats(*exact, chosen=chosen)
    right_gradients = gradients(exact, right)
    theirs = reference.logit_token_stats((given.x @ given.weight.T).float(), given.target, chosen=chosen)
    their_gradients = gradients(given, theirs)
    ours = linear_token_stats(*given, chosen=chosen, impl=impl)
    assert ours.z_chosen is not None
    assert ours.z_chosen.dtype == torch.float32
    # A chosen logit's gradient is rounded before it is added, and the interpreter cuts bf16 where a GPU rounds.
    for mine, other, exactly in zip(
        [*outputs(ours), *gradients(given, ours)],
        [*outputs(theirs), *their_gradients],
        [*outputs(right), *right_gradients],
        strict=True,
    ):
        ulp = 2 * torch.finfo(torch.float32).eps * float(exactly.detach().abs().max())
        assert error(mine, exactly) <= 4 * error(other, exactly) + ulp


@BOTH
def test_shape_strides_and_index_dtype_of_the_caller(impl: str) -> None:
    x = torch.randn(2, 8, 3, dtype=torch.float64).transpose(1, 2)
    weight, target = torch.randn(20, 8, dtype=torch.float64), torch.tensor([[0, 5, 19], [1, 7, 7]])
    chosen = torch.randint(20, (4, 2, 3)).movedim(0, 2)
    stats = linear_token_stats(x, weight, target, chosen=chosen.int(), impl=impl)
    torch.testing.assert_close(stats.z_chosen, (x @ weight.T).gather(2, chosen))
    assert stats.detached().z_chosen is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_slopes_times_the_factors_are_the_gradient_however_small_the_factor(dtype: torch.dtype) -> None:
    slopes = torch.rand(6, 20).to(dtype)
    before, chosen = slopes.double().clone(), torch.randint(20, (6, 4))
    chosen[:, 1] = chosen[:, 0]
    g, factor = torch.randn(6, 4), torch.tensor([1.0, 0.0, -0.5, 1e-20, 1.0, 0.0])
    g[5] = 0.0
    raised = add_to_slopes_(slopes, factor, chosen, g)
    right = (factor.double()[:, None] * before).scatter_add(1, chosen, g.double())
    close = 1e-6 if dtype == torch.float64 else 2e-2
    torch.testing.assert_close(raised.double()[:, None] * slopes.double(), right, rtol=close, atol=close)


@BOTH
def test_a_second_backward_over_spent_slopes_is_refused_and_otherwise_repeats_the_first(impl: str) -> None:
    given = case(5, 20)
    chosen = torch.randint(20, (5, 4))
    stats = linear_token_stats(*given, impl=impl, mode="save", chosen=chosen)
    first = gradients(given, stats, again=True)
    with pytest.raises(RuntimeError, match=r'overwritten by its first backward.*mode="recompute"'):
        gradients(given, stats)
    stats = linear_token_stats(*given, impl=impl, mode="recompute", chosen=chosen)
    second, third = gradients(given, stats, again=True), gradients(given, stats)
    for one, two, three in zip(first, second, third, strict=True):
        torch.testing.assert_close(one, two)
        assert torch.equal(two, three)


@BOTH
@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_one_row(impl: str, rows: int) -> None:
    given = case(rows, 20, torch.float32)
    stats = linear_token_stats(*given, chosen=torch.zeros(rows, 2, dtype=torch.long), impl=impl)
    assert stats.z_chosen is not None
    g_x, g_weight = torch.autograd.grad(stats.z_chosen.sum(), (given.x, given.weight))
    assert g_x.shape == (rows, 8)
    assert bool(g_weight[0].any()) == (rows == 1)
    assert not (g_weight[1:].abs() > 1e-15).any()


def test_fp64_gradcheck_of_both_paths() -> None:
    given = case(3, 9, width=2)
    chosen = torch.tensor([[0, 0, 2], [8, 1, 3], [5, 4, 4]])
    for impl in ("torch", "triton"):

        def statistics(x: Tensor, weight: Tensor, impl: str = impl) -> tuple[Tensor, ...]:
            stats = linear_token_stats(x, weight, given.target, call_id=2, chosen=chosen, impl=impl, mode="recompute")
            return tuple(outputs(stats))

        assert torch.autograd.gradcheck(statistics, (given.x, given.weight), fast_mode=True)
