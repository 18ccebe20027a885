"""The attention kernels at real sizes: against fp64, every configuration of the table, twice the same, no waiting."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from kernels.attention import attention
from kernels.attention.configurations import TABLE, Case, Configuration, trying
from kernels.attention.reference import attention_reference
from kernels.bench.attention import Inputs, Provider, make_inputs, ours, sdpa, sdpa_mask
from kernels.bench.correctness import largest_error, last_place
from kernels.bench.shapes import AttentionShape as Shape
from tests.kernels.gpu import NEEDS_GPU

pytestmark = NEEDS_GPU
DEVICE = torch.device("cuda")
NAMES = ("out", "dQ", "dK", "dV")
REPEATS = 20

SHAPES = [
    Shape(2, 1024, 12, 12, 64),
    Shape(2, 1024, 16, 4, 128),
    Shape(1, 2048, 12, 3, 64, torch.float16),
    Shape(3, 777, 8, 1, 128),  # ragged; one key head for all
    Shape(2, 129, 2, 2, 64),  # one token beyond a tile
    Shape(4, 1, 4, 2, 64),
]
PACKED = [
    replace(SHAPES[0], mean_document=130),
    replace(SHAPES[1], mean_document=64, equal_documents=True),  # boundaries on the edges of tiles
    replace(SHAPES[2], mean_document=500),
    replace(SHAPES[3], mean_document=3),
    replace(SHAPES[4], mean_document=1, equal_documents=True),  # every token alone
]


def results(provider: Provider, given: Inputs) -> tuple[Tensor, ...]:
    out = provider(given)
    return out.detach(), *torch.autograd.grad(out, given.leaves, given.upstream)


def exact_results(given: Inputs, documents: bool) -> tuple[Tensor, ...]:
    query, key, value = (leaf.detach().double().requires_grad_() for leaf in given.leaves)
    out = attention_reference(query, key, value, given.doc_start if documents else None)
    return out.detach(), *torch.autograd.grad(out, (query, key, value), given.upstream.double())


def assert_near(shape: Shape, given: Inputs, factor: float = 2.0) -> None:
    """Our error against fp64 is at most ``factor`` times that of PyTorch in the same dtype, plus rounding."""
    documents = shape.mean_document is not None
    theirs = sdpa_mask(given) if documents else sdpa(SDPBackend.FLASH_ATTENTION)
    found = results(ours("triton", documents), given), results(theirs, given), exact_results(given, documents)
    for name, mine, plain, exact in zip(NAMES, *found, strict=True):
        error, theirs_error = largest_error(mine, exact), largest_error(plain, exact)
        allowed = factor * theirs_error + last_place(exact, shape.dtype)
        assert error <= allowed, f"{shape} {name}: {error:.2e} against fp64, torch {theirs_error:.2e}"


@pytest.mark.parametrize("shape", [*SHAPES, *PACKED], ids=str)
def test_errors_are_those_of_the_dtype(shape: Shape) -> None:
    assert_near(shape, make_inputs(shape, 0, DEVICE))


def cases() -> list[tuple[Case, Configuration]]:
    """Every configuration that the table has for a GPU, on a case of its own (those of other GPUs, too)."""
    return [(case, entry) for case, entry in TABLE.items() if case.capability != (0, 0)]


@pytest.mark.parametrize(("case", "entry"), cases(), ids=str)
def test_every_configuration_of_the_table_is_right(case: Case, entry: Configuration) -> None:
    if torch.cuda.get_device_capability() < case.capability:
        pytest.skip(f"tiles for {case.capability} need not fit into the shared memory of an older GPU")
    shape = Shape(2, 333, 4, 2, case.head_dim, case.dtype, mean_document=50 if case.documents else None)
    given = make_inputs(shape, 0, DEVICE)
    with trying(entry):
        found = results(ours("triton", case.documents), given)
    exact = exact_results(given, case.documents)
    for name, mine, right in zip(NAMES, found, exact, strict=True):
        error = float((mine.double() - right).norm() / right.norm().clamp_min(1e-30))
        assert error < {torch.float32: 1e-5}.get(case.dtype, 1e-2), f"{name}: relative error {error:.2e}"


def test_float32_is_not_multiplied_as_tf32() -> None:
    shape = Shape(1, 256, 4, 4, 64, torch.float32)
    given = make_inputs(shape, 0, DEVICE)
    for name, mine, right in zip(
        NAMES, results(ours("triton", False), given), exact_results(given, False), strict=True
    ):
        error = float((mine.double() - right).norm() / right.norm())
        assert error < 1e-5, f"{name}: {error:.2e}; tf32 would be near 3e-4"


def test_parts_of_a_fused_projection_are_taken_as_they_are() -> None:
    fused = torch.randn(2, 512, 16 + 4 + 4, 64, device=DEVICE, dtype=torch.bfloat16)
    parts = [part.requires_grad_() for part in fused.split((16, 4, 4), dim=2)]
    whole = [part.detach().contiguous().requires_grad_() for part in parts]
    upstream = torch.randn(2, 512, 16, 64, device=DEVICE, dtype=torch.bfloat16)
    outs = [attention(*leaves, impl="triton") for leaves in (parts, whole)]
    assert torch.equal(*outs)
    gradients = [torch.autograd.grad(out, leaves, upstream) for out, leaves in zip(outs, (parts, whole), strict=True)]
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [SHAPES[0], PACKED[0], PACKED[3], SHAPES[1]], ids=str)
def test_repeated_until_different_it_never_is(shape: Shape) -> None:
    """A race shows itself as a difference; so does memory that nobody wrote (the cache is filled with NaN between)."""
    given = make_inputs(shape, 0, DEVICE)
    provider = ours("triton", shape.mean_document is not None)
    first = results(provider, given)
    for number in range(REPEATS):
        poison(first)
        for name, one, other in zip(NAMES, first, results(provider, given), strict=True):
            assert torch.equal(one, other), f"{name} differs in run {number + 2}"


def poison(like: tuple[Tensor, ...]) -> None:
    """Leaves NaN in the blocks that the allocator will hand out next."""
    for tensor in like:
        torch.full_like(tensor, torch.nan)


def test_nothing_waits_for_the_device() -> None:
    shape = PACKED[0]
    given = make_inputs(shape, 0, DEVICE)
    without_waiting(lambda: results(ours("triton", True), given))


def without_waiting(run: Callable[[], object]) -> None:
    run()  # compiles, which may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_more_than_two_to_the_31_elements() -> None:
    """Offsets beyond 32 bits: the last row of a tensor of 2.4e9 elements must equal that row alone."""
    batch, seq, heads, head_dim = 9, 32768, 64, 128
    needed = 8 * batch * seq * heads * head_dim
    if torch.cuda.mem_get_info()[0] < 1.3 * needed:
        pytest.skip(f"needs {1.3 * needed / 1e9:.0f} GB of free memory")
    generator = torch.Generator(DEVICE).manual_seed(0)
    query = torch.randn(batch, seq, heads, head_dim, generator=generator, device=DEVICE, dtype=torch.bfloat16)
    assert query.numel() > 2**31
    key = torch.randn(batch, seq, 1, head_dim, generator=generator, device=DEVICE, dtype=torch.bfloat16)
    start = (torch.arange(seq, device=DEVICE, dtype=torch.int32) // 256 * 256).expand(batch, seq).contiguous()
    query.requires_grad_()
    out = attention(query, key, key, start, impl="triton")
    last = query.detach()[-1:].clone().requires_grad_()
    alone = attention(last, key[-1:], key[-1:], start[-1:], impl="triton")
    assert torch.equal(out[-1:], alone)
    (grad,) = torch.autograd.grad(out, query, out.detach())
    (grad_alone,) = torch.autograd.grad(alone, last, alone.detach())
    assert torch.equal(grad[-1:], grad_alone)


def test_compiled_in_one_graph_it_is_bitwise_the_same() -> None:
    shape = PACKED[0]
    given = make_inputs(shape, 0, DEVICE)

    def function(query: Tensor, key: Tensor, value: Tensor, start: Tensor, end: Tensor) -> Tensor:
        return attention(query, key, value, start, end, impl="triton")

    compiled = torch.compile(function, fullgraph=True)
    eager, graph = (function(*given.leaves, given.doc_start, given.doc_end) for function in (function, compiled))
    assert torch.equal(eager, graph)
    gradients = [torch.autograd.grad(out, given.leaves, given.upstream) for out in (eager, graph)]
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
