"""A linear layer into cross-entropy statistics and back, chunk of rows by chunk of rows.

Equals ``reference.linear_token_stats(x, weight, target)`` and its gradients. The matrix products are torch's (on CUDA
cuBLAS: a hand-written Triton product reaches two thirds of it); only what happens to a row of logits is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from kernels import onednn
from kernels.cross_entropy import rows_torch
from kernels.cross_entropy.chosen import add_to_gradient_, add_to_slopes_, without_targets
from kernels.cross_entropy.products import add_product_, product
from kernels.cross_entropy.statistics import Statistics, Upstream, accumulator, empty_statistics

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.cross_entropy.rules import Rules

# Too few rows leave the products too small: on a CPU, 256 take a third longer than 1024 in bf16, and 4096 of fp32 leave
# its cache; on a GPU, 64 chunks take half as long again as one.
CHUNK_ROWS = {"cpu": 1024, "cuda": 8192}


def chunks(rows: int, device: torch.device) -> Iterator[slice]:
    step = CHUNK_ROWS.get(device.type, CHUNK_ROWS["cuda"])
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def forward(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    chosen: Tensor,
    rules: Rules,
    *,
    keep: bool,
    argmax: bool,
    entropy: bool,
    triton: bool,
) -> tuple[Statistics, Tensor]:
    """Statistics, and if ``keep`` what ``backward`` would else compute again: logits (Triton) or slopes (PyTorch)."""
    with torch.autocast(x.device.type, enabled=False):
        stats = empty_statistics(len(x), x, rules, argmax, entropy, chosen.shape[1])
        used = _used(weight, rules, triton).T
        if keep:
            kept = product(x, used)
            measure(kept, target, rules, stats, triton, slopes=True, chosen=chosen)
            return stats, kept
        room = _room(x, used, triton)
        for chunk in chunks(len(x), x.device):
            # No name for the logits: they are gone before the next are made.
            measure(
                _logits(x[chunk], used, room),
                target[chunk],
                rules,
                stats.of(chunk),
                triton,
                slopes=False,
                chosen=chosen[chunk],
            )
        return stats, x.new_empty(0)


def backward(
    kept: Tensor,
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    chosen: Tensor,
    rules: Rules,
    stats: Statistics,
    gradients: Upstream,
    *,
    need_x: bool,
    need_weight: bool,
    triton: bool,
    overwrite: bool,
) -> tuple[Tensor, Tensor]:
    """dX in the dtype of ``x`` (fp32 for fp16) and dW in the accumulator's; empty where not needed.

    Gradients of fp16 are computed as if the largest that comes from above were about one, and scaled back in fp32: the
    mean of 65,536 rows sends each a gradient that, times a probability, fp16 cannot tell from zero.

    Arguments:
        kept: from ``forward``. Empty: computed again.
        chosen: columns whose logits were asked for, ``[rows, k]``.
        overwrite: may ``kept`` be spent? The Triton path then writes the gradient of the logits over it, and where
            columns are chosen, the PyTorch path adds to it. Else what ``spends`` needs a chunk of memory instead.
    """
    with torch.autocast(x.device.type, enabled=False):
        if chosen.shape[1]:
            skip = rows_torch.skipped(target, rules)
            g_y, g_chosen = without_targets(chosen, target, skip, gradients.z_y, gradients.z_chosen)
            gradients = gradients._replace(z_y=g_y, z_chosen=g_chosen)
        scale = None
        if x.dtype == torch.float16:
            gradients, scale = _brought_to_one(gradients)
        collected = Gradients(x, weight, rules, need_x, need_weight, triton)
        collected.add_all(kept, target, chosen, stats, gradients, overwrite)
        return collected.scaled_back(scale)


def _brought_to_one(gradients: Upstream) -> tuple[Upstream, Tensor]:
    """The gradients times a power of two that brings the largest to between a half and one; and the power."""
    each = [gradient.abs().amax() for gradient in gradients if gradient.numel()]
    largest = torch.stack(each).amax() if each else gradients.lse_x.new_ones(())
    _, exponent = torch.frexp(largest)
    scale = torch.ldexp(torch.ones_like(largest), -exponent.clamp(-100, 100))  # what is beyond is 0, or no number
    return Upstream(*(gradient * scale for gradient in gradients)), scale


def spends(chosen: Tensor, triton: bool) -> bool:
    """Does ``backward`` write to what was kept, if it may?"""
    return triton or chosen.shape[1] > 0


class Gradients:
    """dX and dW as chunk after chunk adds to them; dW in the accumulator's dtype, for chunks must not round it."""

    def __init__(self, x: Tensor, weight: Tensor, rules: Rules, need_x: bool, need_weight: bool, triton: bool) -> None:
        self._operands, self._rules, self._triton = (x, weight), rules, triton
        self._need_x, self._need_weight = need_x, need_weight
        dtype = accumulator(x.dtype)
        self.x = x.new_empty(x.shape if need_x else 0, dtype=x.dtype)
        # Columns that no chunk ever touches are padding (or there is no row at all).
        self.weight = weight.new_zeros(weight.shape if need_weight else 0, dtype=dtype)

    def add_all(
        self, kept: Tensor, target: Tensor, chosen: Tensor, stats: Statistics, gradients: Upstream, overwrite: bool
    ) -> None:
        """What all rows contribute; arguments as in ``backward``."""
        x, weight = self._operands
        if kept.numel() and (overwrite or not spends(chosen, self._triton)):
            self.add(slice(0, len(x)), kept, target, chosen, stats, gradients, out=kept)
            return
        used = _used(weight, self._rules, self._triton).T
        room = _room(x, used, self._triton)
        for chunk in chunks(len(x), x.device):
            given = target[chunk], chosen[chunk], stats.of(chunk), gradients.of(chunk)
            if kept.numel():
                out = room[: len(x[chunk])] if len(room) else torch.empty_like(kept[chunk])
                self.add(chunk, kept[chunk], *given, out=out)
            else:
                self._add_anew(chunk, used, room, *given)

    def _add_anew(
        self,
        chunk: slice,
        used: Tensor,
        room: Tensor,
        target: Tensor,
        chosen: Tensor,
        stats: Statistics,
        gradients: Upstream,
    ) -> None:
        """``add`` with logits that were not kept."""
        wide = _logits(self._operands[0][chunk], used, room)
        if not self._triton:
            unused = empty_statistics(len(wide), wide, self._rules, argmax=False, entropy=False)
            measure(wide, target, self._rules, unused, triton=False, slopes=True)
        self.add(chunk, wide, target, chosen, stats, gradients, out=wide)

    def scaled_back(self, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both, divided by the ``scale`` of the gradients that they were made of, if it is not one."""
        if scale is None:
            return self.x, self.weight
        return self.x.to(scale.dtype).div_(scale), self.weight.div_(scale)

    def add(
        self,
        chunk: slice,
        wide: Tensor,
        target: Tensor,
        chosen: Tensor,
        stats: Statistics,
        gradients: Upstream,
        *,
        out: Tensor,
    ) -> None:
        """``wide``: logits (Triton) or slopes (PyTorch) of ``chunk``. ``out``: where what is made of them goes, if
        anything is (see ``spends``); it may be ``wide``."""
        x, weight = self._operands
        x, rules = x[chunk], self._rules
        if self._triton:
            differentiate(wide, target, rules, stats, gradients, triton=True, out=out)
            add_to_gradient_(out, chosen, gradients.z_chosen)
            if self._need_x:
                torch.mm(out, weight, out=self.x[chunk])
            if self._need_weight:
                add_product_(self.weight, out.T, x)
            return
        if out is not wide and spends(chosen, triton=False):
            wide = out.copy_(wide)
        factors = rows_torch.factors(target, rules, stats, *gradients[:3])
        factors = factors._replace(slopes=add_to_slopes_(wide, factors.slopes, chosen, gradients.z_chosen))
        if self._need_x:
            self.x[chunk] = rows_torch.gradient_x(wide, weight[: rules.columns], target, rules, factors)
        if self._need_weight:
            rows_torch.add_gradient_weight_(self.weight[: rules.columns], wide, x, target, rules, factors)


def _room(x: Tensor, used: Tensor, triton: bool) -> Tensor:
    """For the logits of one chunk after another; of no rows where oneDNN multiplies, which does not write to it."""
    first = next((len(x[chunk]) for chunk in chunks(len(x), x.device)), 0)
    return x.new_empty(0 if not triton and onednn.chosen(x, used) else first, used.shape[1])


def _logits(x: Tensor, used: Tensor, room: Tensor) -> Tensor:
    return torch.mm(x, used, out=room[: len(x)]) if len(room) else product(x, used)


def _used(weight: Tensor, rules: Rules, triton: bool) -> Tensor:
    """Triton masks the padding, which keeps cuBLAS's operands aligned; PyTorch had better never see it."""
    return weight if triton else weight[: rules.columns]


def measure(
    logits: Tensor,
    target: Tensor,
    rules: Rules,
    out: Statistics,
    triton: bool,
    *,
    slopes: bool | None = None,
    chosen: Tensor | None = None,
) -> None:
    """Write the statistics of given logits to ``out``; see ``rows_torch.measure`` for ``slopes``."""
    if triton:
        import kernels.cross_entropy.rows as rows

        if chosen is not None and chosen.shape[1]:
            out.z_chosen.copy_(logits[:, : rules.columns].gather(1, chosen))
        rows.measure(logits, target, rules, out)
    else:
        rows_torch.measure(logits, target, rules, out, slopes=slopes, chosen=chosen)


def differentiate(
    logits: Tensor,
    target: Tensor,
    rules: Rules,
    stats: Statistics,
    gradients: Upstream,
    triton: bool,
    *,
    out: Tensor,
) -> None:
    """Write the gradient of given logits, without that of chosen columns, to ``out``, which may be the logits."""
    if triton:
        import kernels.cross_entropy.rows as rows

        rows.differentiate(logits, target, rules, stats, *gradients[:3], out=out)
    else:
        rows_torch.differentiate(logits, target, rules, stats, *gradients[:3], out=out)
