"""A linear layer into statistics and back: every mode and implementation against the reference."""

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cross_entropy import TokenStats, configurations, linear, linear_token_stats, reference
from tests.kernels.cross_entropy.cases import IGNORED, as_leaves, case, error, gradients, mixed, outputs

BOTH = pytest.mark.parametrize("impl", ["torch", "triton"])
CALLS = pytest.mark.parametrize("call_id", [None, 3])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one ragged, and several blocks a row, at sizes an interpreter can bear."""
    monkeypatch.setattr(linear, "CHUNK_ROWS", {"cpu": 4, "cuda": 4})
    monkeypatch.setattr(configurations, "_DEFAULT", configurations.RowConfig(block=256, warps=4))


def test_the_reference_is_torchs_cross_entropy() -> None:
    given = case(9, 40)
    nll = reference.linear_token_stats(*given).nll_full
    torch.testing.assert_close(
        nll, F.cross_entropy(given.x @ given.weight.T, given.target, reduction="none", ignore_index=IGNORED)
    )
    with_call = reference.linear_token_stats(*given, call_id=5)
    torch.testing.assert_close(with_call.nll_full, nll)
    log_p = (given.x @ given.weight.T).log_softmax(-1)
    torch.testing.assert_close(with_call.logp_call, log_p[:, 5])


@BOTH
@CALLS
@pytest.mark.parametrize("mode", ["save", "recompute"])
def test_values_and_gradients_in_fp64(impl: str, call_id: int | None, mode: str) -> None:
    given = case(7, 45, padding=3)
    given.target[2] = 3  # the target is CALL
    options = {"call_id": call_id, "n_cols": 45}
    right = reference.linear_token_stats(*given, **options)
    ours = linear_token_stats(*given, **options, mode=mode, impl=impl, return_argmax=True, return_entropy=True)
    for mine, theirs in zip(outputs(ours), outputs(right), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert ours.argmax is not None
    assert ours.argmax.dtype == torch.int32
    assert torch.equal(ours.argmax, right.argmax)
    torch.testing.assert_close(ours.entropy, right.entropy, rtol=1e-10, atol=1e-12)
    expected = gradients(given, right)
    for mine, theirs in zip(gradients(given, ours), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)
    assert not expected[1][45:].any()


@BOTH
@pytest.mark.parametrize("columns", [192, 668, 1128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_errors_stay_within_twice_those_of_torch(impl: str, columns: int, dtype: torch.dtype) -> None:
    given = case(5, columns, dtype, width=16, padding=-columns % 128)
    options = {"call_id": 7, "n_cols": columns}
    exact = as_leaves(given, torch.float64)
    right = reference.linear_token_stats(*exact, **options)
    right_gradients = gradients(exact, right)

    # torch in the same dtype: products and their gradient are rounded, the sums are fp32
    theirs = reference.logit_token_stats((given.x @ given.weight.T).float(), given.target, **options)
    their_gradients = gradients(given, theirs)
    ours = linear_token_stats(*given, **options, impl=impl)
    assert ours.lse_x.dtype == torch.float32
    our_gradients = gradients(given, ours)
    # The interpreter cuts fp32 to bf16 where a GPU rounds, which alone doubles the error of the stored gradient.
    times = 4 if impl == "triton" and dtype == torch.bfloat16 else 2
    for mine, other, exactly in zip(
        [*outputs(ours), *our_gradients],
        [*outputs(theirs), *their_gradients],
        [*outputs(right), *right_gradients],
        strict=True,
    ):
        ulp = 2 * torch.finfo(torch.float32).eps * float(exactly.detach().abs().max())
        assert error(mine, exactly) <= times * error(other, exactly) + ulp


@BOTH
def test_given_the_same_logits_the_loss_is_exact_to_a_millionth(impl: str) -> None:
    given = case(6, 700, torch.float32, width=16)
    ours = linear_token_stats(*given, impl=impl, call_id=0).nll_full
    logits = (given.x @ given.weight.T).double()
    right = F.cross_entropy(logits, given.target, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(ours.double(), right, rtol=1e-6, atol=0)


@BOTH
@CALLS
def test_both_modes_give_the_same_gradients(impl: str, call_id: int | None) -> None:
    given = case(6, 50, torch.float32)
    options = {"call_id": call_id, "impl": impl}

    def losses(stats: TokenStats, weight: torch.Tensor) -> torch.Tensor:
        delegated = 0.0 if call_id is None else stats.logp_call
        return weight * stats.nll_excl - 0.3 * delegated

    weight = torch.linspace(0.1, 2, 6)
    results = []
    for mode in ("save", "recompute"):
        stats = linear_token_stats(*given, **options, mode=mode)
        loss = losses(stats, weight).masked_fill(stats.ignored, 0).sum() / 4
        results.append((loss, *torch.autograd.grad(loss, (given.x, given.weight))))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=2e-6)


@BOTH
def test_delegated_rows_and_kept_rows_do_not_touch_each_others_columns(impl: str) -> None:
    """The loss without CALL puts exactly nothing on CALL's row of the weight; ignored rows put nothing anywhere."""
    given = case(6, 30, torch.float32)
    stats = linear_token_stats(*given, call_id=4, impl=impl)
    g_x, g_weight = torch.autograd.grad(stats.nll_excl.sum(), (given.x, given.weight), retain_graph=impl == "torch")
    assert not g_weight[4].any()
    assert not g_x[1].any()
    assert not g_x[3].any()
    assert g_x[0].all()
    stats = linear_token_stats(*given, call_id=4, impl=impl)
    torch.autograd.backward(stats.logp_call.sum() + stats.lse_full.sum())
    assert given.weight.grad is not None
    assert given.weight.grad[4].any()
    assert given.x.grad is not None
    assert not given.x.grad[[1, 3]].any()  # ignored rows send nothing back, whatever is asked of them


@BOTH
@pytest.mark.parametrize("mode", ["save", "recompute"])
def test_a_batch_of_ignored_rows_costs_nothing_and_teaches_nothing(impl: str, mode: str) -> None:
    given = case(4, 20, torch.float32)
    given.target.fill_(IGNORED)
    stats = linear_token_stats(*given, call_id=1, impl=impl, mode=mode)
    assert torch.equal(stats.nll_full, torch.zeros(4))
    assert torch.equal(stats.nll_excl, torch.zeros(4))
    assert stats.logp_call.isfinite().all()
    for grad in torch.autograd.grad(stats.nll_full.sum(), (given.x, given.weight)):
        assert torch.equal(grad, torch.zeros_like(grad))


@BOTH
@pytest.mark.parametrize("mode", ["save", "recompute"])
@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_one_row(impl: str, mode: str, rows: int) -> None:
    given = case(rows, 20, torch.float32)
    stats = linear_token_stats(*given, call_id=1, impl=impl, mode=mode, return_argmax=True, return_entropy=True)
    assert stats.nll_full.shape == stats.entropy.shape == (rows,)  # type: ignore[union-attr]
    g_x, g_weight = torch.autograd.grad(stats.nll_full.sum(), (given.x, given.weight))
    assert g_x.shape == (rows, 8)
    assert bool(g_weight.any()) == (rows == 1)
    assert not g_weight.isnan().any()


@BOTH
def test_shape_strides_and_index_dtype_of_the_caller(impl: str) -> None:
    """[batch, seq, width] from a transposed view, the weight a view of something larger, targets i32."""
    x = torch.randn(2, 8, 3, dtype=torch.float64).transpose(1, 2).requires_grad_()
    weight = torch.randn(20, 16, dtype=torch.float64)[:, ::2].requires_grad_()
    target = torch.tensor([[0, 5], [19, IGNORED], [7, 7]]).T
    ours = linear_token_stats(x, weight, target.int(), call_id=2, impl=impl)
    right = reference.linear_token_stats(x, weight, target, call_id=2)
    assert ours.nll_excl.shape == (2, 3)
    torch.testing.assert_close(ours.nll_excl, right.nll_excl)
    for mine, theirs in zip(
        torch.autograd.grad(mixed(ours), (x, weight)), torch.autograd.grad(mixed(right), (x, weight)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@BOTH
@pytest.mark.parametrize("mode", ["save", "recompute"])
@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_that_are_asked_for(impl: str, mode: str, needed: tuple[bool, bool]) -> None:
    given = case(6, 20)
    whole = gradients(given, linear_token_stats(*given, impl=impl, mode=mode))
    given.x.requires_grad_(needed[0])
    given.weight.requires_grad_(needed[1])
    mixed(linear_token_stats(*given, impl=impl, mode=mode)).backward()
    for leaf, grad, wanted in zip((given.x, given.weight), whole, needed, strict=True):
        assert (leaf.grad is not None) == wanted
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, grad)


@BOTH
def test_without_gradients_no_logits_are_kept(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = case(6, 20)
    kept = []
    forward = linear.forward
    monkeypatch.setattr(linear, "forward", lambda *a, **k: (kept.append(k["keep"]), forward(*a, **k))[1])
    with torch.no_grad():
        stats = linear_token_stats(*given, impl=impl, mode="save")
    assert kept == [False]
    assert not stats.lse_x.requires_grad
    torch.testing.assert_close(stats.lse_x, reference.linear_token_stats(*given).lse_x)


def peak_bytes(function: Callable[[], object]) -> int:
    """The most memory that tensors took at once on the CPU, beyond what there was."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@BOTH
def test_recomputing_holds_one_chunk_of_logits_at_a_time(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "CHUNK_ROWS", {"cpu": 8, "cuda": 8})
    monkeypatch.setattr(configurations, "_DEFAULT", configurations.RowConfig(block=4096, warps=4))  # quicker
    given = case(24, 4096, torch.float32, width=2)
    chunk = 8 * 4096 * 4

    def forward() -> Tensor:
        return linear_token_stats(*given, mode="recompute", impl=impl).nll_full.sum()

    def backward() -> object:
        return torch.autograd.grad(forward(), (given.x, given.weight))

    backward()  # what is made once
    assert chunk <= peak_bytes(forward) < 1.5 * chunk
    assert chunk <= peak_bytes(backward) < 1.6 * chunk  # with the gradients, and what they are made of


def test_a_second_backward_over_overwritten_logits_is_refused_and_otherwise_repeats_the_first() -> None:
    given = case(5, 20)
    stats = linear_token_stats(*given, impl="triton", mode="save")
    gradients(given, stats, again=True)
    with pytest.raises(RuntimeError, match=r'overwritten by its first backward.*mode="recompute"'):
        gradients(given, stats)
    for impl, mode in (("triton", "recompute"), ("torch", "save"), ("torch", "recompute")):
        stats = linear_token_stats(*given, impl=impl, mode=mode)
        first, second = gradients(given, stats, again=True), gradients(given, stats)
        assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@BOTH
def test_under_autocast_products_are_narrow_and_gradients_are_the_leaves_own(impl: str) -> None:
    given = case(6, 20, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        stats = linear_token_stats(*given, impl=impl)
    narrow = linear_token_stats(*as_leaves(given, torch.bfloat16), impl=impl)
    assert torch.equal(stats.lse_x, narrow.lse_x)
    g_x, g_weight = gradients(given, stats)
    assert g_x.dtype == g_weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("impl", "mode", "rows"),
    [
        ("torch", "save", 65536),
        ("torch", "recompute", 65536),
        ("triton", "save", 8),
    ],
)
def test_fp16_gradients_of_a_mean_over_many_rows_are_not_rounded_away(
    impl: str, mode: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row of 65,536 gets a gradient of 1.5e-5, times probabilities; fp16 ends at 6e-8. In the interpreter, some of
    those rows."""
    monkeypatch.setattr(linear, "CHUNK_ROWS", {"cpu": 16384, "cuda": 16384})
    given = case(rows, 64, torch.float16)
    given = as_leaves(given._replace(weight=0.1 * given.weight), torch.float32)
    exact = as_leaves(given, torch.float64)
    right = torch.autograd.grad(reference.linear_token_stats(*exact).nll_full.sum() / 65536, (exact.x, exact.weight))
    for loss_scale in (1.0, 65536.0):
        with torch.autocast("cpu", torch.float16):
            stats = linear_token_stats(*given, impl=impl, mode=mode)
        ours = torch.autograd.grad(stats.nll_full.sum() * (loss_scale / 65536), (given.x, given.weight))
        for mine, exactly in zip(ours, right, strict=True):
            assert (mine.double() / loss_scale - exactly).norm() < 1e-3 * exactly.norm()


@BOTH
def test_a_gradient_that_is_no_number_shows_in_fp16(impl: str) -> None:
    """A loss scale that was too large is found by this, and one row's is not hidden by the others'."""
    given = case(6, 20, torch.float16)
    stats = linear_token_stats(*given, impl=impl)
    upstream = torch.ones(6).index_fill_(0, torch.tensor(2), torch.inf)
    for gradient in torch.autograd.grad(stats.lse_x, (given.x, given.weight), upstream):
        assert not gradient.isfinite().all()


def test_auto_keeps_logits_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels.cross_entropy import border

    given = case(6, 20)
    kept = []
    forward = linear.forward
    monkeypatch.setattr(linear, "forward", lambda *a, **k: (kept.append(k["keep"]), forward(*a, **k))[1])
    linear_token_stats(*given)
    monkeypatch.setattr(border, "kept_bytes", lambda device: 6 * 20 * 8 - 1)
    linear_token_stats(*given)
    assert kept == [True, False]


def test_without_call_its_probability_is_an_error_and_both_losses_are_one() -> None:
    stats = linear_token_stats(*case(6, 20))
    assert torch.equal(stats.nll_full, stats.nll_excl)
    with pytest.raises(ValueError, match="call_id was None"):
        _ = stats.logp_call


def test_fp64_gradcheck_of_the_triton_kernels_themselves() -> None:
    given = case(3, 9, width=2)

    def statistics(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(outputs(linear_token_stats(x, weight, given.target, call_id=2, impl="triton", mode="recompute")))

    assert torch.autograd.gradcheck(statistics, (given.x, given.weight), fast_mode=True)
