"""The cross-entropy kernels at real sizes: against fp64, beyond 2^31 logits, twice the same, no waiting."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels.bench.correctness import relative_error
from kernels.bench.tune import trying_rows
from kernels.cross_entropy import (
    TokenStats,
    configurations,
    cross_entropy,
    linear_token_stats,
    reference,
)
from kernels.cross_entropy.configurations import RowConfig
from tests.kernels.gpu import NEEDS_GPU
from tests.kernels.gpu.test_attention import without_waiting

pytestmark = NEEDS_GPU
DEVICE = torch.device("cuda")
CALL, IGNORED = 7, -100
REPEATS = 20
# rows, width, real columns, padded columns
SHAPES = [(4096, 768, 50257, 50304), (1000, 1024, 32769, 32896), (289, 64, 1124, 1124), (1, 128, 192, 256)]


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    rows, width, columns, padded = shape
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(rows, width, generator=generator, device=DEVICE).to(dtype).requires_grad_()
    weight = (torch.randn(padded, width, generator=generator, device=DEVICE) * width**-0.5).to(dtype).requires_grad_()
    target = torch.randint(columns, (rows,), generator=generator, device=DEVICE)
    target[1::10] = IGNORED
    target[2::10] = CALL
    return x, weight, target


def per_token(stats: TokenStats) -> Tensor:
    """Uses every output; each token weighs differently."""
    weight = torch.linspace(0.5, 1.5, stats.lse_x.numel(), device=DEVICE, dtype=stats.lse_x.dtype)
    return weight * stats.nll_full - 0.1 * stats.logp_call.masked_fill(stats.ignored, 0.0)


def ours(mode: str, columns: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def loss(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        options = {"call_id": CALL, "ignore_index": IGNORED, "n_cols": columns, "impl": "triton"}
        return per_token(linear_token_stats(x, weight, target, mode=mode, **options)).sum()  # type: ignore[arg-type]

    return loss


def by_torch(columns: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def loss(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        logits = x @ weight.T
        logits = logits if logits.dtype == torch.float64 else logits.float()
        options = {"call_id": CALL, "ignore_index": IGNORED, "n_cols": columns}
        return per_token(reference.logit_token_stats(logits, target, **options)).sum()  # type: ignore[arg-type]

    return loss


def gradients(loss: Callable[..., Tensor], x: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    value = loss(x, weight, target)
    return value.detach(), *torch.autograd.grad(value, (x, weight))


@pytest.mark.parametrize("mode", ["save", "recompute"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_errors_are_those_of_the_dtype(shape: tuple[int, int, int, int], dtype: torch.dtype, mode: str) -> None:
    x, weight, target = inputs(shape, dtype)
    exact = gradients(by_torch(shape[2]), *(leaf.detach().double().requires_grad_() for leaf in (x, weight)), target)
    plain = gradients(by_torch(shape[2]), x, weight, target)
    for name, mine, theirs, right in zip(
        ("loss", "dX", "dW"), gradients(ours(mode, shape[2]), x, weight, target), plain, exact, strict=True
    ):
        error, theirs_error = relative_error(mine, right), relative_error(theirs, right)
        assert error <= 1.5 * theirs_error + torch.finfo(dtype).eps, f"{name}: {error:.2e}, torch {theirs_error:.2e}"


CONFIGS = {
    RowConfig(1024, 4),
    RowConfig(4096, 8),
    RowConfig(8192, 16),
    configurations._DEFAULT,
    *configurations._TABLE.values(),
}


@pytest.mark.parametrize("config", sorted(CONFIGS), ids=str)
def test_every_configuration_is_right(config: RowConfig) -> None:
    shape = (300, 64, 5003, 5120)  # ends within a block
    x, weight, target = inputs(shape, torch.bfloat16)
    expected = gradients(by_torch(shape[2]), x, weight, target)
    with trying_rows(config):
        found = gradients(ours("save", shape[2]), x, weight, target)
    for name, one, other in zip(("loss", "dX", "dW"), found, expected, strict=True):
        assert relative_error(one, other.double()) < 1e-2, name


@pytest.mark.parametrize("mode", ["save", "recompute"])
def test_repeated_until_different_it_never_is(mode: str) -> None:
    x, weight, target = inputs(SHAPES[1], torch.bfloat16)
    loss = ours(mode, SHAPES[1][2])
    first = gradients(loss, x, weight, target)
    for number in range(REPEATS):
        torch.full((len(target), SHAPES[1][3]), torch.nan, device=DEVICE, dtype=torch.bfloat16)  # poison the cache
        for name, one, other in zip(("loss", "dX", "dW"), first, gradients(loss, x, weight, target), strict=True):
            assert torch.equal(one, other), f"{name} differs in run {number + 2}"


def test_more_than_two_to_the_31_logits() -> None:
    """Offsets beyond 32 bits: the last rows of 2.2e9 logits must equal those rows alone."""
    rows, columns = 65536, 33024
    assert rows * columns > 2**31
    if torch.cuda.mem_get_info()[0] < 5 * 2 * rows * columns:
        pytest.skip("needs 22 GB of free memory")
    logits = torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    target = torch.randint(columns, (rows,), device=DEVICE)
    nll = cross_entropy(logits, target, impl="triton")
    last = logits.detach()[-8:].clone().requires_grad_()
    alone = cross_entropy(last, target[-8:], impl="triton")
    assert torch.equal(nll[-8:], alone)
    (grad,) = torch.autograd.grad(nll.sum(), logits)
    (grad_alone,) = torch.autograd.grad(alone.sum(), last)
    assert torch.equal(grad[-8:], grad_alone)
    exact = torch.nn.functional.cross_entropy(last.detach().double(), target[-8:], reduction="none")
    assert relative_error(alone, exact) < 1e-6


def test_nothing_waits_for_the_device() -> None:
    x, weight, target = inputs(SHAPES[1], torch.bfloat16)
    for mode in ("save", "recompute"):
        without_waiting(lambda mode=mode: gradients(ours(mode, SHAPES[1][2]), x, weight, target))


def test_compiled_in_one_graph_it_is_bitwise_the_same() -> None:
    x, weight, target = inputs(SHAPES[1], torch.bfloat16)
    loss = ours("save", SHAPES[1][2])
    compiled = torch.compile(loss, fullgraph=True)
    eager, graph = gradients(loss, x, weight, target), gradients(compiled, x, weight, target)
    for name, one, other in zip(("dX", "dW"), eager[1:], graph[1:], strict=True):
        assert relative_error(other, one.double()) < 1e-3, (
            name
        )  # the weights of tokens may be fused, so rounded otherwise
    assert torch.allclose(eager[0], graph[0], rtol=1e-6)


def test_all_rows_ignored_is_a_zero_and_not_a_nan() -> None:
    x, weight, target = inputs(SHAPES[2], torch.bfloat16)
    loss, dx, dw = gradients(
        lambda *leaves: linear_token_stats(*leaves, impl="triton").nll_full.sum(),
        x,
        weight,
        torch.full_like(target, IGNORED),
    )
    assert loss == 0
    assert not dx.any()
    assert not dw.any()


def test_compiled_loss_of_given_logits_keeps_its_gradient() -> None:
    """torch 2.11 lost the mutation of an operator that returns nothing: a compiled gradient of zeros."""
    logits = torch.randn(300, 5003, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    target = torch.randint(5003, (300,), device=DEVICE)

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, target, impl="triton").sum()

    (eager,) = torch.autograd.grad(loss(logits), logits)
    (graph,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(logits), logits)
    assert eager.any()
    assert relative_error(graph, eager.double()) < 1e-3
