"""The Triton kernels compute what plain PyTorch computes: forward and gradients, against fp64."""

import pytest
import torch

from kernels.attention import attention, attention_reference
from kernels.attention.configurations import Configuration, trying
from kernels.dispatch import interpreted
from tests.kernels.attention.calls import (
    DEVICE,
    FLAT,
    NAMES,
    SMALL,
    TALL,
    Bounds,
    check,
    packed,
    reference,
    results,
    tensors,
)

needs_interpreter = pytest.mark.skipif(not interpreted(), reason="fp64 kernels are for the interpreter only")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "head_dim"),
    [(64, 4, 1, 16), (63, 3, 1, 32), (111, 2, 1, 64), (48, 1, 1, 128), (1, 2, 2, 16)],
)
def test_a_row_of_one_document(dtype: torch.dtype, length: int, heads: int, kv_heads: int, head_dim: int) -> None:
    check(*tensors(1, length, heads, kv_heads, head_dim, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_packed_documents_in_every_dtype(dtype: torch.dtype) -> None:
    with trying(SMALL):
        check(*tensors(2, 63, 4, 2, 32, dtype), packed(63, [0, 20, 40], [0, 32]))


EDGES = {
    "on tile edges": [0, 32, 64],
    "beside tile edges": [0, 31, 65],
    "one token at each end": [0, 1, 95],
    "one token in the middle": [0, 40, 41],
    "a tile of one-token documents": list(range(30, 68)),
    "one-token documents only": list(range(96)),
    "none": [0],
}


@pytest.mark.parametrize("configuration", [SMALL, TALL, FLAT], ids=["square", "tall", "flat"])
@pytest.mark.parametrize("starts", EDGES.values(), ids=EDGES.keys())
def test_boundaries_anywhere(starts: list[int], configuration: Configuration) -> None:
    with trying(configuration):
        check(*tensors(1, 96, 1, 1, 16, torch.float32), packed(96, starts))


@needs_interpreter
def test_in_fp64_the_kernels_are_exact() -> None:
    call = tensors(1, 63, 4, 1, 16, torch.float64)
    bounds = packed(63, [0, 5, 31, 32, 50])
    with trying(SMALL):
        ours = results(*call, bounds)
    for name, tensor, answer in zip(NAMES, ours, reference(*call, bounds), strict=True):
        assert (tensor - answer).abs().max() < 1e-13, name


@needs_interpreter
@pytest.mark.parametrize("starts", [[0], [0, 7, 16, 17]])
def test_gradients_are_the_derivatives_across_tiles(starts: list[int]) -> None:
    query, key, value, _ = tensors(1, 37, 2, 1, 16, torch.float64)
    bounds = packed(37, starts)
    with trying(SMALL):
        assert torch.autograd.gradcheck(
            lambda *leaves: attention(*leaves, *bounds, scale=0.7, impl="triton"), (query, key, value), fast_mode=True
        )


def test_parts_of_a_fused_projection_are_taken_as_they_are() -> None:
    heads, kv_heads, head_dim = 4, 2, 16
    fused = torch.randn(2, 40, (heads + 2 * kv_heads) * head_dim, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    parts = fused.unflatten(2, (heads + 2 * kv_heads, head_dim)).split([heads, kv_heads, kv_heads], dim=2)
    query, key, value = (part.requires_grad_() for part in parts)
    assert not query.is_contiguous()
    bounds = packed(40, [0, 11], [0, 32])
    check(query, key, value, torch.randn_like(query), bounds)
    check(query, key, value, torch.ones((), device=DEVICE).expand(query.shape), bounds)  # the gradient of a sum


@pytest.mark.parametrize("order", ["BHTD", "TBHD"])
def test_other_orders_of_memory_give_the_same_bits(order: str) -> None:
    call = tensors(2, 40, 2, 1, 16, torch.float32)
    axes = (0, 2, 1, 3) if order == "BHTD" else (1, 0, 2, 3)
    moved = [tensor.detach().permute(axes).contiguous().permute(axes).requires_grad_() for tensor in call]
    assert moved[0].stride() != call[0].stride()
    for name, ours, same in zip(NAMES, results(*moved), results(*call), strict=True):
        assert torch.equal(ours, same), name


def test_large_scores_neither_overflow_nor_vanish() -> None:
    query, key, value, grad = tensors(1, 40, 1, 1, 16, torch.float32)
    call = (query.detach() * 1e4).requires_grad_(), (key.detach() - 1e3).requires_grad_(), value, grad
    for name, ours, answer in zip(NAMES, results(*call), reference(*call, dtype=torch.float64), strict=True):
        assert ours.isfinite().all(), name
        if name == "out":
            torch.testing.assert_close(ours, answer.float(), rtol=1e-2, atol=1e-2)


def test_scale_is_a_factor_of_the_scores() -> None:
    query, key, value, _ = tensors(1, 20, 2, 1, 16, torch.float32)
    ours = attention(query, key, value, scale=0.05, impl="triton")
    torch.testing.assert_close(ours, attention_reference(query, key, value, scale=0.05))


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_a_document_does_not_know_its_neighbours(impl: str) -> None:
    """Packed, each document gets what it gets alone; permuted, the documents' results are permuted."""
    lengths = [9, 1, 30, 17]
    call = tensors(1, sum(lengths), 2, 1, 16, torch.float32)
    order = [2, 0, 3, 1]
    pieces = [tensor.split(lengths, dim=1) for tensor in call]
    shuffled = [torch.cat([piece[number] for number in order], dim=1).detach().requires_grad_() for piece in pieces]

    def bounds(sizes: list[int]) -> Bounds:
        return packed(sum(sizes), torch.tensor([0, *sizes[:-1]]).cumsum(0).tolist())

    with trying(SMALL):
        together = [result.split(lengths, dim=1) for result in results(*call, bounds(lengths), impl)]
        sizes = [lengths[number] for number in order]
        permuted = [result.split(sizes, dim=1) for result in results(*shuffled, bounds(sizes), impl)]
        for number in range(len(lengths)):
            leaves = [piece[number].detach().requires_grad_() for piece in pieces]
            alone = results(*leaves, impl=impl)
            for name, packed_result, moved, lone in zip(NAMES, together, permuted, alone, strict=True):
                torch.testing.assert_close(packed_result[number], lone, rtol=1e-5, atol=1e-5, msg=name)
                torch.testing.assert_close(moved[order.index(number)], lone, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("documents", [False, True])
def test_pytorch_computes_the_same(dtype: torch.dtype, documents: bool) -> None:
    call = tensors(2, 33, 4, 2, 24, dtype)  # 24: a head dimension without a Triton kernel
    bounds = packed(33, [0, 7], [0, 20, 21]) if documents else (None, None)
    exact = reference(*call, bounds, torch.float64)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 6e-2}[dtype]
    for name, ours, answer in zip(NAMES, results(*call, bounds, "torch"), exact, strict=True):
        torch.testing.assert_close(ours.double(), answer, rtol=tolerance, atol=tolerance, msg=name)
