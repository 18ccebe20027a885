"""Products by oneDNN: torch's numbers, and chosen where MKL does not know the processor."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import onednn

pytestmark = pytest.mark.skipif(not torch._C._has_mkldnn, reason="this torch has no oneDNN")


def laid_out(rows: int, columns: int, turned: bool, seed: int) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(columns, rows, generator=drawn).T if turned else torch.randn(rows, columns, generator=drawn)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 70)] * 3), turned=st.tuples(st.booleans(), st.booleans()), seed=st.integers(0, 99)
)
def test_a_product_is_torchs_however_the_matrices_lie(
    shape: tuple[int, int, int], turned: tuple[bool, bool], seed: int
) -> None:
    rows, inner, columns = shape
    a, b = laid_out(rows, inner, turned[0], seed), laid_out(inner, columns, turned[1], seed + 100)
    torch.testing.assert_close(onednn.product(a, b), a @ b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", False),
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\n", True),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", False),
    ],
)
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch has no MKL")
def test_the_maker_of_the_processor_decides(
    text: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(onednn, "_CPUINFO", tmp_path / "cpuinfo")
    onednn.mkl_is_slow.cache_clear()
    try:
        assert onednn.mkl_is_slow() == expected
    finally:
        onednn.mkl_is_slow.cache_clear()


def test_other_numbers_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: True)
    x = torch.ones(2, 2)
    assert onednn.chosen(x, x)
    assert not onednn.chosen(x.double(), x.double())
    assert not onednn.chosen(x.bfloat16(), x)
