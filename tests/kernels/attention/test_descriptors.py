"""Tiles loaded through tensor descriptors: the numbers are those of pointers, which take what cannot be described."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from kernels import dispatch
from kernels.attention import backward, descriptors, forward
from kernels.attention.configurations import Configuration, Tiles, trying
from kernels.dispatch import interpreted
from tests.kernels.attention.calls import DEVICE, NAMES, Bounds, packed, results, tensors

pytestmark = pytest.mark.skipif(
    not interpreted() and torch.cuda.get_device_capability() < descriptors.CAPABILITY,
    reason="this GPU loads through pointers only",
)


POINTERS = Configuration(Tiles(16, 32), Tiles(16, 32), Tiles(32, 16))
DESCRIBED = Configuration(Tiles(16, 32, described=True), Tiles(16, 32, described=True), Tiles(32, 16, described=True))


@contextmanager
def counted() -> Iterator[list[bool]]:
    """For each launch that asks for descriptors, whether it got them."""
    got: list[bool] = []

    def watched(*arguments: object) -> object:
        made = descriptors.described(*arguments)  # type: ignore[arg-type]
        got.append(made is not None)
        return made

    with pytest.MonkeyPatch.context() as patch:
        for module in (forward, backward):
            patch.setattr(module, "described", watched)
        yield got


def same_bits(call: list[Tensor], bounds: Bounds, described: list[bool]) -> None:
    """Which of the three launches load through descriptors is as expected; and the bits are those of pointers."""
    with trying(POINTERS):
        through_pointers = results(*call, bounds=bounds)
    with trying(DESCRIBED), counted() as got:
        ours = results(*call, bounds=bounds)
    assert got == described
    for name, one, other in zip(NAMES, ours, through_pointers, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize(
    ("dtype", "bounds"), [(torch.float32, (None, None)), (torch.float16, packed(40, [0, 13]))], ids=["row", "documents"]
)
def test_the_bits_are_those_of_pointers(dtype: torch.dtype, bounds: Bounds) -> None:
    """A ragged row, and two query heads that share a key."""
    same_bits(tensors(1, 40, 2, 1, 16, dtype), bounds, [True] * 3)


def test_parts_of_a_fused_projection_are_described_as_they_are() -> None:
    fused = torch.randn(2, 20, 4 * 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    query, key, value = (part.requires_grad_() for part in fused.unflatten(2, (4, 16)).split([2, 1, 1], dim=2))
    same_bits([query, key, value, torch.ones_like(query)], (None, None), [True] * 3)


def test_beyond_the_end_of_a_row_are_zeros_not_the_next_row() -> None:
    *call, grad = (tensor.detach() for tensor in tensors(2, 20, 1, 1, 16, torch.float32))
    for tensor in call:
        tensor[1] = torch.nan
    with trying(DESCRIBED), counted() as got:
        ours = results(*(tensor.requires_grad_() for tensor in call), grad=grad)
    assert got == [True] * 3
    assert all(tensor[0].isfinite().all() for tensor in ours)


def apart(tensor: Tensor, *, by: int) -> Tensor:
    """The same numbers, ``by`` elements from an aligned address."""
    room = tensor.new_empty(tensor.numel() + by)
    return room[by:].view(tensor.shape).copy_(tensor).requires_grad_()


def test_what_cannot_be_described_goes_through_pointers_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    query, key, value, grad = tensors(2, 16, 1, 1, 16, torch.float32)
    wide = torch.randn(2, 16, 1, 18, generator=torch.Generator().manual_seed(0)).to(DEVICE)[..., :16].requires_grad_()
    dispatch.say_once.cache_clear()
    for _ in range(2):
        same_bits([query, apart(key, by=1), value, grad], (None, None), [False, False, True])
    same_bits([query, key, wide, grad], (None, None), [False, False, True])
    same_bits([query, key, value, grad[:1].expand(2, -1, -1, -1)], (None, None), [True, True, False])
    assert [record.message.split("because ")[1][:31] for record in caplog.records] == [
        "a tensor begins at an address t",
        "a tensor has strides of [1152, ",
        "a tensor has strides of [0, 64,",
    ]
