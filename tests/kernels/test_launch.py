"""Kernels are launched on the device of their tensors, which need not be the current one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from kernels.dispatch import interpreted

if not interpreted():
    pytest.skip("where there are GPUs, tests/kernels/gpu launches on them", allow_module_level=True)

from kernels.attention import attention, backward, forward
from kernels.cross_entropy import linear_token_stats, rows
from kernels.launch import on_device_of


class Watched:
    """A kernel that notes, for every launch, which device was the current one."""

    def __init__(self, kernel: Any, entered: list[Tensor], launched: list[Tensor | None]) -> None:
        self._kernel, self._entered, self._launched = kernel, entered, launched

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        self._launched.append(self._entered[-1] if self._entered else None)
        return self._kernel[grid]  # type: ignore[no-any-return]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """For each launch, the tensor whose device it is guarded for."""
    entered: list[Tensor] = []
    seen: list[Tensor | None] = []

    @contextmanager
    def guard(tensor: Tensor) -> Iterator[None]:
        entered.append(tensor)
        yield
        entered.pop()

    kernels: dict[ModuleType, tuple[str, ...]] = {
        forward: ("_forward",),
        backward: ("_grad_query", "_grad_key_value"),
        rows: ("_measure", "_differentiate"),
    }
    for module, names in kernels.items():
        monkeypatch.setattr(module, "on_device_of", guard)
        for name in names:
            monkeypatch.setattr(module, name, Watched(getattr(module, name), entered, seen))
    return seen


def test_the_guard_is_for_the_device_of_the_tensor() -> None:
    """No second GPU is needed to make one's tensors, as long as nobody reads them."""
    with FakeTensorMode():
        for number in (0, 1):
            guard = on_device_of(torch.empty(1, device=f"cuda:{number}"))
            assert isinstance(guard, torch.cuda.device)
            assert guard.idx == number
    with on_device_of(torch.empty(1)):  # a CPU has nothing to be made current
        pass


def test_every_launch_is_guarded(launched: list[Tensor | None]) -> None:
    query, key, value = (torch.randn(1, 16, 1, 16, requires_grad=True) for _ in range(3))
    attention(query, key, value, impl="triton").sum().backward()
    assert len(launched) == 3
    x, weight = torch.randn(2, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    linear_token_stats(x, weight, torch.tensor([0, 8]), impl="triton").nll_full.sum().backward()
    assert len(launched) == 5
    assert all(tensor is not None for tensor in launched)
    assert launched[0] is not None
    assert launched[0].data_ptr() == query.data_ptr()
