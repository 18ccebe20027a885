# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""The interpreter multiplies and counts as a GPU would: bfloat16 products, fp64 sums, 64-bit offsets."""

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from kernels import interpreter  # noqa: E402
from kernels.dispatch import interpreted  # noqa: E402
from kernels.interpreter import dot, tile_offset  # noqa: E402

DEVICE = "cpu" if interpreted() else "cuda"


@triton.jit
def _multiply(a, b, out, SIZE: tl.constexpr, ACC: tl.constexpr):  # noqa: N803
    square = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(out + square, dot(tl.load(a + square), tl.load(b + square), tl.zeros([SIZE, SIZE], ACC)))


@triton.jit
def _offset(index, stride, out):
    tl.store(out, tile_offset(tl.load(index), stride))


def product(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Our product of two random matrices, and the exact one."""
    a, b = (torch.randn(16, 16, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype) for seed in (0, 1))
    exact = dtype == torch.float64
    out = torch.full((16, 16), torch.nan, dtype=torch.float64 if exact else torch.float32, device=DEVICE)
    _multiply[(1,)](a, b, out, SIZE=16, ACC=tl.float64 if exact else tl.float32)
    return out.double(), a.double() @ b.double()


@pytest.mark.parametrize(
    ("dtype", "largest_error"),
    [(torch.bfloat16, 2e-5), (torch.float16, 2e-5), (torch.float32, 2e-5), (torch.float64, 1e-13)],
)
def test_products_are_exact_up_to_the_accumulator(dtype: torch.dtype, largest_error: float) -> None:
    if dtype == torch.float64 and not interpreted():
        pytest.skip("fp64 is for the interpreter's gradient checks")
    ours, exact = product(dtype)
    assert (ours - exact).abs().max() < largest_error


@pytest.mark.skipif(not interpreted(), reason="it is the interpreter that is wrong")
def test_without_widening_the_interpreter_gets_bfloat16_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for the branch in ``dot``; once this fails, the branch can go."""
    monkeypatch.setattr(interpreter, "INTERPRETED", tl.constexpr(False))
    ours, exact = product(torch.bfloat16)
    assert (ours - exact).abs().max() > 1e6


def test_offsets_beyond_32_bits_do_not_wrap() -> None:
    out = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    _offset[(1,)](torch.tensor([65536], dtype=torch.int32, device=DEVICE), 50304, out)
    assert out.item() == 65536 * 50304 > 2**31
