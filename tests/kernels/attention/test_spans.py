# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""The kernels meet every tile that has a visible pair and no other, and mask only where a pair is not visible."""

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from kernels.attention.reference import visible  # noqa: E402
from kernels.attention.spans import key_span, row_span  # noqa: E402
from tests.kernels.attention.calls import DEVICE, packed  # noqa: E402


@triton.jit
def _spans(
    doc_start,
    doc_end,
    of_keys,
    of_rows,
    length,
    ROWS: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
):
    """Four bounds each, for the queries and for the keys from ``program * ROWS`` and ``program * KEYS`` on."""
    number = tl.program_id(0)
    if number * ROWS < length:
        low, middle, diagonal, high = key_span(doc_start, number * ROWS, length, ROWS, KEYS, DOCUMENTS)
        tl.store(of_keys + number * 4 + 0, low)
        tl.store(of_keys + number * 4 + 1, middle)
        tl.store(of_keys + number * 4 + 2, diagonal)
        tl.store(of_keys + number * 4 + 3, high)
    if number * KEYS < length:
        low, free, trailing, high = row_span(doc_end, number * KEYS, length, ROWS, KEYS, DOCUMENTS)
        tl.store(of_rows + number * 4 + 0, low)
        tl.store(of_rows + number * 4 + 1, free)
        tl.store(of_rows + number * 4 + 2, trailing)
        tl.store(of_rows + number * 4 + 3, high)


@pytest.mark.parametrize(("rows", "keys"), [(16, 16), (32, 16), (16, 32)])
@pytest.mark.parametrize("starts", [None, [0], [0, 16, 48, 64], [0, 15, 33, 34, 35, 90], list(range(100))])
def test_tiles_are_met_if_and_only_if_a_pair_is_visible(starts: list[int] | None, rows: int, keys: int) -> None:
    length = 100
    doc_start, doc_end = packed(length, starts or [0])
    tiles = -(-length // min(rows, keys))
    of_keys, of_rows = torch.zeros(2, tiles, 4, dtype=torch.int32, device=DEVICE)
    _spans[(tiles,)](doc_start, doc_end, of_keys, of_rows, length, ROWS=rows, KEYS=keys, DOCUMENTS=starts is not None)
    assert doc_start is not None
    pairs = visible(length, doc_start)[0, 0].cpu()

    for first, (low, middle, diagonal, high) in zip(range(0, length, rows), of_keys.tolist(), strict=False):
        block = pairs[first : first + rows]
        for key in range(0, length, keys):
            tile = block[:, key : key + keys]
            assert (low <= key < high) == bool(tile.any()), f"queries from {first} meet the keys from {key}"
            if middle <= key < diagonal:
                assert tile.all(), f"queries from {first} need no mask for the keys from {key}"

    for first, (low, free, trailing, high) in zip(range(0, length, keys), of_rows.tolist(), strict=False):
        block = pairs[:, first : first + keys]
        for row in range(0, length, rows):
            tile = block[row : row + rows]
            assert (low <= row < high) == bool(tile.any()), f"keys from {first} meet the queries from {row}"
            if free <= row < trailing:
                assert tile.all(), f"keys from {first} need no mask for the queries from {row}"
                assert row + rows <= length, f"queries from {row} are all there"
