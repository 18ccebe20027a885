"""Bounds of packed documents: from flags to first and last token, on the device."""

import pytest
import torch

from kernels.documents import doc_bounds, doc_end_of


def by_hand(boundary: torch.Tensor) -> tuple[list[list[int]], list[list[int]]]:
    starts, ends = [], []
    for row in boundary.tolist():
        firsts = sorted({0} | {index for index, flag in enumerate(row) if flag})
        lasts = [*firsts[1:], len(row)]
        of = [max(number for number, first in enumerate(firsts) if first <= index) for index in range(len(row))]
        starts.append([firsts[number] for number in of])
        ends.append([lasts[number] for number in of])
    return starts, ends


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("length", [1, 2, 63, 64])
def test_bounds_are_those_that_one_finds_by_hand(density: float, length: int) -> None:
    boundary = torch.rand(3, length, generator=torch.Generator().manual_seed(length)) < density
    doc_start, doc_end = doc_bounds(boundary)
    assert doc_start.dtype == doc_end.dtype == torch.int32
    assert (doc_start.tolist(), doc_end.tolist()) == by_hand(boundary)
    assert torch.equal(doc_end_of(doc_start.long()), doc_end)


def test_a_row_begins_a_document_even_where_no_flag_says_so() -> None:
    doc_start, doc_end = doc_bounds(torch.tensor([[False, False, True, False]]))
    assert doc_start.tolist() == [[0, 0, 2, 2]]
    assert doc_end.tolist() == [[2, 2, 4, 4]]


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0, 0)])
def test_an_empty_batch_has_empty_bounds(shape: tuple[int, int]) -> None:
    for bounds in doc_bounds(torch.zeros(shape, dtype=torch.bool)):
        assert bounds.shape == shape
        assert bounds.dtype == torch.int32


def test_other_shapes_and_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"boundary is torch.int64 \[2, 3\]; allowed is torch.bool \[B, T\]"):
        doc_bounds(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"boundary is torch.bool \[3\]"):
        doc_bounds(torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"doc_start is torch.float32 \[2, 3\]; allowed is torch.int32 or torch.int64"):
        doc_end_of(torch.zeros(2, 3))


def test_bounds_compile_without_a_graph_break() -> None:
    boundary = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    compiled = torch.compile(doc_bounds, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(compiled(boundary), doc_bounds(boundary), strict=True):
        assert torch.equal(ours, eager)
