"""The interface of vLLM's logits processors, declared again from its documentation for version 0.29.

https://docs.vllm.ai/en/v0.29.0/api/vllm/v1/sample/logits_processor/interface/ says what a processor must have and what
it is told: which rows of the batch were removed, added and moved since the last step, in this order.
"""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

PLUGIN = "components.deployment.gateway.vllm_plugin"
INTERFACE = "vllm.v1.sample.logits_processor"


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass
class SamplingParams:
    extra_args: dict[str, Any] | None = None


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: Sequence[int]
    added: Sequence[tuple[int, SamplingParams, list[int] | None, list[int]]]
    moved: Sequence[tuple[int, int, MoveDirectionality]]


class LogitsProcessor(ABC):
    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        return None

    @abstractmethod
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None: ...

    @abstractmethod
    def apply(self, logits: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def is_argmax_invariant(self) -> bool: ...

    @abstractmethod
    def update_state(self, batch_update: BatchUpdate | None) -> None: ...


@contextmanager
def plugin() -> Iterator[ModuleType]:
    """Our plugin, imported where vLLM has this interface."""
    names = [INTERFACE.rsplit(".", depth)[0] for depth in (3, 2, 1)] + [INTERFACE]
    for name in names:
        sys.modules[name] = ModuleType(name)
    for declared in (MoveDirectionality, BatchUpdate, LogitsProcessor):
        setattr(sys.modules[INTERFACE], declared.__name__, declared)
    try:
        yield importlib.import_module(PLUGIN)
    finally:
        for name in [PLUGIN, *names]:
            sys.modules.pop(name, None)


def config(vocab_size: int) -> SimpleNamespace:
    """As much of vLLM's configuration as a processor reads."""
    return SimpleNamespace(model_config=SimpleNamespace(get_vocab_size=lambda: vocab_size))


@dataclass
class Batch:
    """Requests in rows, as vLLM keeps them: new ones take free rows, and the last ones fill what is left free."""

    rows: list[SamplingParams | None] = field(default_factory=list)

    def step(self, leaving: Sequence[int], joining: Sequence[SamplingParams], swap: tuple[int, int] | None) -> Any:
        """The update after ``leaving`` rows are free, ``joining`` requests have come and two rows were swapped."""
        for row in leaving:
            self.rows[row] = None
        free = sorted(leaving)
        added = []
        for params in joining:
            if not free:
                self.rows.append(None)
            row = free.pop(0) if free else len(self.rows) - 1
            self.rows[row] = params
            added.append((row, params, [1], []))
        moved = self._condense()
        if swap is not None and swap[0] != swap[1] and max(swap) < len(self.rows):
            first, second = swap
            self.rows[first], self.rows[second] = self.rows[second], self.rows[first]
            moved.append((first, second, MoveDirectionality.SWAP))
        # A row that was taken again at once is not told as removed.
        return BatchUpdate(len(self.rows), free, added, moved)

    def _condense(self) -> list[tuple[int, int, MoveDirectionality]]:
        moved = []
        while None in self.rows:
            last = self.rows.pop()
            if last is not None:
                gap = self.rows.index(None)
                self.rows[gap] = last
                moved.append((len(self.rows), gap, MoveDirectionality.UNIDIRECTIONAL))
        return moved
