# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""The kernels meet every tile that has a visible pair and no other, and mask only where a pair is not visible."""

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from kernels.attention.reference import visible  # noqa: E402
from kernels.attention.spans import key_span, masked_count, masked_first, row_span  # noqa: E402
from tests.kernels.attention.calls import DEVICE, packed  # noqa: E402


@triton.jit
def _spans(
    doc_start,
    doc_end,
    of_keys,
    masked,
    of_rows,
    length,
    ROWS: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    MOST: tl.constexpr,  # noqa: N803
    DOCUMENTS: tl.constexpr,  # noqa: N803
):
    """What the queries from ``program * ROWS`` on meet, four bounds and the masked tiles, and the keys, two bounds."""
    number = tl.program_id(0)
    if number * ROWS < length:
        bounds = key_span(doc_start, number * ROWS, length, ROWS, KEYS, DOCUMENTS)
        for place in tl.static_range(4):
            tl.store(of_keys + number * 4 + place, bounds[place])
        for place in tl.range(0, masked_count(bounds, KEYS)):
            tl.store(masked + number * MOST + place, masked_first(bounds, place, KEYS))
    if number * KEYS < length:
        low, high = row_span(doc_end, number * KEYS, length, ROWS, KEYS, DOCUMENTS)
        tl.store(of_rows + number * 2 + 0, low)
        tl.store(of_rows + number * 2 + 1, high)


@pytest.mark.parametrize(("rows", "keys"), [(16, 16), (32, 16), (16, 32)])
@pytest.mark.parametrize("starts", [None, [0], [0, 16, 48, 64], [0, 15, 33, 34, 35, 90], list(range(100))])
def test_tiles_are_met_if_and_only_if_a_pair_is_visible(starts: list[int] | None, rows: int, keys: int) -> None:
    length = 100
    doc_start, doc_end = packed(length, starts or [0])
    tiles = -(-length // min(rows, keys))
    integers = {"dtype": torch.int32, "device": DEVICE}
    of_keys, of_rows = torch.zeros(tiles, 4, **integers), torch.zeros(tiles, 2, **integers)
    masked = torch.full((tiles, tiles + 1), -1, **integers)
    constants = {"ROWS": rows, "KEYS": keys, "MOST": tiles + 1, "DOCUMENTS": starts is not None}
    _spans[(tiles,)](doc_start, doc_end, of_keys, masked, of_rows, length, **constants)
    assert doc_start is not None
    pairs = visible(length, doc_start)[0, 0].cpu()

    listed = zip(range(0, length, rows), of_keys.tolist(), masked.tolist(), strict=False)
    for first, (low, middle, diagonal, high), with_mask in listed:
        block = pairs[first : first + rows]
        without = list(range(middle, diagonal, keys))
        met = sorted([*(key for key in with_mask if key >= 0), *without])
        assert met == [key for key in range(0, length, keys) if block[:, key : key + keys].any()], (
            f"queries from {first}"
        )
        assert all(low <= key < high for key in met)
        for key in without:
            assert block[:, key : key + keys].all(), f"queries from {first} need no mask for the keys from {key}"

    for first, (low, high) in zip(range(0, length, keys), of_rows.tolist(), strict=False):
        block = pairs[:, first : first + keys]
        for row in range(0, length, rows):
            visible_pairs = bool(block[row : row + rows].any())
            assert (low <= row < high) == visible_pairs, f"keys from {first} meet the queries from {row}"
