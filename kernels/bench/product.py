"""The product's own decoder in a training step: what a user of Lacewing trains, not a model of the benchmark's.

Separate projections for queries, keys and values, grouped queries, rotary positions, SwiGLU, and a loss that is
computed outside the compiled decoder, as the training loop does. kernels/ depends on torch and triton alone, so the
decoder is imported by name, only to be measured.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.bench.gpt import Batch, make_optimizer, train_step
from kernels.dispatch import using

Way = Literal["ours", "torch", "torch_compiled"]
"""``torch``: SDPA, and F.cross_entropy on fp32 logits; ``torch_compiled``: the same with a compiled loss."""


@dataclass(frozen=True)
class Preset:
    """Sizes of a model: those of ``conf/model``, with the vocabulary that their comments count with."""

    name: str
    layers: int
    width: int
    hidden_width: int
    heads: int
    kv_heads: int
    context_length: int
    vocab: int = 32_768

    @property
    def context(self) -> int:
        return self.context_length

    @property
    def parameters(self) -> int:
        attention = 2 * self.width**2 * (self.heads + self.kv_heads) // self.heads
        block = attention + 3 * self.width * self.hidden_width + 2 * self.width
        return self.layers * block + (self.vocab + 1) * self.width

    @property
    def flops_per_token(self) -> float:
        """``6 parameters + 12 layers width context`` (PaLM, appendix B), attention in full, as others count it."""
        return 6.0 * self.parameters + 12.0 * self.layers * self.width * self.context_length

    @property
    def config(self) -> dict[str, object]:
        """For the CSV file."""
        return asdict(self)


PRESET_124M = Preset("124m", 12, 768, 2816, 12, 6, 1024)
PRESET_1B = Preset("1b", 16, 2048, 8192, 32, 8, 2048)
PRESET_TINY = Preset("tiny", 1, 32, 64, 2, 1, 32, vocab=64)


class Training:
    """A model of the product and an optimizer step, all in one implementation."""

    def __init__(self, preset: Preset, way: Way, ours: str, device: torch.device) -> None:
        """
        Arguments:
            way: whose attention and loss.
            ours: the implementation that our kernels run with, ``triton`` or ``torch``.

        Raises ``ImportError`` where the product, or what it needs, is not installed.
        """
        decoder = importlib.import_module("components.model.transformer")
        shape = importlib.import_module("components.model.config").ModelConfig
        self._ops = importlib.import_module("components.model.ops")
        sizes = {name: value for name, value in asdict(preset).items() if name != "vocab"}
        torch.manual_seed(0)
        self.model: nn.Module = decoder.Transformer(shape(**sizes), preset.vocab).to(device)
        compile_it = device.type == "cuda"  # a rehearsal does not compile
        self._decoder: Callable[..., Tensor] = self.model
        self._torch_loss: Callable[..., Tensor] = _plain_loss
        if compile_it:
            self._decoder = torch.compile(self.model, fullgraph=True, dynamic=False)
        if compile_it and way == "torch_compiled":
            self._torch_loss = torch.compile(_plain_loss, dynamic=False)
        self._way, self._implementation = way, ours if way == "ours" else "torch"
        self._optimizer = make_optimizer(self.model)

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step; the loss stays on the device."""
        with using(self._implementation):  # type: ignore[arg-type]
            return train_step(self._loss, self._optimizer, batch)

    def _loss(self, tokens: Tensor, targets: Tensor, doc_start: Tensor | None, doc_end: Tensor | None) -> Tensor:
        hidden, targets = self._decoder(tokens, doc_start).flatten(0, 1), targets.flatten()
        weight: Any = self.model.output_weight
        if self._way != "ours":
            return self._torch_loss(hidden, weight, targets)
        loss: Tensor = self._ops.linear_token_stats(hidden, weight, targets).nll_full.mean()
        return loss


def _plain_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)
