"""The operators behind attention: registered as PyTorch wants, deterministic, complete, compiled without a break."""

import pytest
import torch
from torch import Tensor

from kernels.attention import WORTHWHILE, attention
from kernels.attention.configurations import trying
from kernels.dispatch import using
from tests.kernels.attention.calls import NAMES, SMALL, Bounds, packed, results, tensors

BOUNDS = [(None, None), packed(20, [0, 7, 16])]


@pytest.mark.parametrize("bounds", BOUNDS, ids=["one document", "documents"])
def test_the_operators_pass_pytorchs_own_check(bounds: Bounds) -> None:
    query, key, value, grad = (tensor.detach() for tensor in tensors(1, 20, 2, 1, 16, torch.float32))
    doc_start, doc_end = bounds
    ops = torch.ops.lacewing
    torch.library.opcheck(ops.attention_forward.default, (query, key, value, doc_start, 0.25))
    out, lse = ops.attention_forward(query, key, value, doc_start, 0.25)
    saved = (grad, query, key, value, out, lse, doc_start, doc_end, 0.25)
    torch.library.opcheck(ops.attention_backward.default, saved)


def test_lse_is_the_logarithm_of_the_sum_base_2() -> None:
    query, key, value, _ = (tensor.detach() for tensor in tensors(1, 20, 2, 1, 16, torch.float32))
    _, lse = torch.ops.lacewing.attention_forward(query, key, value, None, 0.25)
    scores = 0.25 * torch.einsum("bqhd,bkd->bhqk", query, key[:, :, 0])
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(lse, scores.logsumexp(-1) / torch.tensor(2.0).log().to(scores.device))


@pytest.mark.parametrize("impl", ["torch", "triton", None])
@pytest.mark.parametrize("bounds", BOUNDS, ids=["one document", "documents"])
def test_compiled_whole_it_gives_the_same_bits(impl: str | None, bounds: Bounds) -> None:
    def layer(query: Tensor, key: Tensor, value: Tensor, bounds: Bounds) -> Tensor:
        return attention(query, key, value, *bounds, impl=impl)  # type: ignore[arg-type]

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    query, key, value, grad = tensors(1, 20, 2, 1, 16, torch.float32)
    outs = [function(query, key, value, bounds) for function in (compiled, layer)]
    grads = [torch.autograd.grad(out, (query, key, value), grad) for out in outs]
    for name, ours, eager in zip(NAMES, (outs[0], *grads[0]), (outs[1], *grads[1]), strict=True):
        assert torch.equal(ours, eager), name


@pytest.mark.parametrize("impl", ["torch", "triton", None])
def test_one_compiled_function_takes_short_and_long_sequences(impl: str | None) -> None:
    """The second length is a symbol to the compiler, and it lies on the other side of the one where Triton begins."""

    def layer(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention(query, key, value, impl=impl)  # type: ignore[arg-type]

    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for length in (WORTHWHILE - 80, WORTHWHILE - 48, WORTHWHILE + 2):
        query, key, value, _ = tensors(1, length, 2, 1, 16, torch.float32)
        assert torch.equal(compiled(query, key, value), layer(query, key, value)), length


def test_two_runs_agree_to_the_last_bit() -> None:
    call = tensors(1, 63, 2, 1, 16, torch.float16)
    bounds = packed(63, [0, 20, 40])
    with trying(SMALL):
        first, second = results(*call, bounds), results(*call, bounds)
    for name, one, other in zip(NAMES, first, second, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("bounds", [(None, None), packed(37, [0, 7, 16], [0, 32])], ids=["one document", "documents"])
def test_every_number_is_written(bounds: Bounds) -> None:
    """PyTorch fills new memory with NaN here; one that is left, or read where it should not be, shows."""
    call = tensors(2, 37, 2, 1, 16, torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        with trying(SMALL):
            ours = results(*call, bounds)
    finally:
        torch.use_deterministic_algorithms(False)
    for name, tensor in zip(NAMES, ours, strict=True):
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_the_gradients_that_are_asked_for(wanted: tuple[int, ...]) -> None:
    *call, grad = tensors(1, 20, 2, 1, 16, torch.float32)
    _, *all_grads = results(*call, grad)
    leaves = [tensor.detach().requires_grad_(number in wanted) for number, tensor in enumerate(call)]
    attention(*leaves, impl="triton").backward(grad)
    for number, (leaf, whole) in enumerate(zip(leaves, all_grads, strict=True)):
        assert (leaf.grad is not None and torch.equal(leaf.grad, whole)) if number in wanted else leaf.grad is None


def test_backward_may_run_twice_but_is_not_differentiated_again() -> None:
    query, key, value, grad = tensors(1, 20, 2, 1, 16, torch.float32)
    out = attention(query, key, value, impl="triton")
    first, second = (torch.autograd.grad(out, query, grad, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    (first,) = torch.autograd.grad(out, query, grad.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_without_gradients_nothing_is_kept() -> None:
    query, key, value, _ = tensors(1, 20, 2, 1, 16, torch.float32)
    with torch.no_grad(), using("triton"):
        assert attention(query, key, value).grad_fn is None
