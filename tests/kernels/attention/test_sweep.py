"""Any length, any partition into documents, any group of heads: the Triton kernels equal plain PyTorch."""

import pytest
import torch

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import strategies as st  # noqa: E402

from kernels.attention.configurations import trying  # noqa: E402
from tests.kernels.attention.calls import FLAT, SMALL, TALL, check, packed, tensors  # noqa: E402


@st.composite
def partitions(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A length, and where its documents start; the edges of tiles and their neighbours come often."""
    length = draw(st.integers(1, 70))
    places = st.one_of(st.integers(0, length - 1), st.sampled_from([0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65]))
    starts = draw(st.sets(places, max_size=8))
    return length, sorted({0} | {start for start in starts if start < length})


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@hypothesis.given(
    partition=partitions(),
    group=st.sampled_from([1, 3, 4]),
    configuration=st.sampled_from([SMALL, TALL, FLAT]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_any_partition(partition, group, configuration, dtype) -> None:  # type: ignore[no-untyped-def]
    length, starts = partition
    with trying(configuration):
        check(*tensors(1, length, group, 1, 16, dtype, seed=length), packed(length, starts))
