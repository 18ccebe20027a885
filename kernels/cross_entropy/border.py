"""What may come in: every mistake that can be seen without asking the device, in the words of the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from kernels.cross_entropy.autograd import compute_dtype
from kernels.cross_entropy.rules import Rules
from kernels.dispatch import Implementation, constant_when_compiled, resolved

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class Call(NamedTuple):
    """A checked call, its tokens in one row after the other."""

    x: Tensor  # [rows, width], or the logits themselves
    target: Tensor  # [rows], i64
    chosen: Tensor  # [rows, k], i64; k = 0 if none were asked for
    rules: Rules
    needed: tuple[bool, bool]  # will the gradient of x, of weight be asked for?
    triton: bool
    wide_bytes: int  # of all logits in the dtype of the products

    def keeps(self, mode: str) -> bool:
        if mode not in ("auto", "save", "recompute"):
            raise ValueError(f"mode is {mode!r}; allowed are auto, save, recompute")
        return mode == "save" or (mode == "auto" and self.wide_bytes <= kept_bytes(self.x.device))


# torch.compile cannot trace a context variable or a driver's answer; neither changes while a model is compiled.
@constant_when_compiled
def _takes_triton(impl: Implementation | None, device: torch.device) -> bool:
    return resolved(impl, device) == "triton"


@constant_when_compiled
def kept_bytes(device: torch.device) -> int:
    """How many bytes of logits "auto" keeps: a tenth of a GPU's memory (all of it, for what is free would be a
    question to the driver), 2 GiB on a CPU."""
    return torch.cuda.get_device_properties(device).total_memory // 10 if device.type == "cuda" else 2 * 2**30


def checked_linear(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    call_id: int | None,
    ignore_index: int,
    n_cols: int | None,
    impl: Implementation | None,
    chosen: Tensor | None = None,
) -> Call:
    _check_tensors(x, "x", target)
    if weight.ndim != 2 or weight.shape[1] != x.shape[-1] or weight.shape[0] == 0:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; allowed is [vocabulary, {x.shape[-1]}], the last dimension of x"
        )
    _check_dtype(weight, "weight")
    if weight.device != x.device:
        raise ValueError(f"weight is on {weight.device} and x on {x.device}; they must be on one device")
    dtype = compute_dtype(x)
    columns = weight.shape[0] if n_cols is None else n_cols
    if not 1 <= columns <= weight.shape[0]:
        raise ValueError(f"n_cols is {n_cols}; allowed is 1 to {weight.shape[0]}, the rows of weight")
    rules = _rules(columns, call_id, ignore_index)
    flat, rows = x.reshape(-1, x.shape[-1]), target.reshape(-1)
    rows = _checked_target(rows, rules)
    chosen = rows.new_empty(len(rows), 0) if chosen is None else _checked_chosen(chosen, target, rules)
    graded = torch.is_grad_enabled()
    return Call(
        x=flat if flat.stride(-1) == 1 else flat.contiguous(),
        target=rows,
        chosen=chosen,
        rules=rules,
        needed=(graded and x.requires_grad, graded and weight.requires_grad),
        triton=_takes_triton(impl, x.device),
        wide_bytes=len(rows) * weight.shape[0] * dtype.itemsize,
    )


def checked_logits(logits: Tensor, target: Tensor, ignore_index: int, impl: Implementation | None) -> Call:
    _check_tensors(logits, "logits", target)
    columns = logits.shape[-1]
    if columns == 0:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; allowed is at least one column")
    rules = _rules(columns, None, ignore_index)
    rows = _checked_target(target.reshape(-1), rules)
    flat = logits.reshape(-1, columns)
    return Call(
        x=flat if flat.stride(-1) == 1 else flat.contiguous(),
        target=rows,
        chosen=rows.new_empty(len(rows), 0),
        rules=rules,
        needed=(torch.is_grad_enabled() and logits.requires_grad, False),
        triton=_takes_triton(impl, logits.device),
        wide_bytes=logits.numel() * logits.element_size(),
    )


def _check_tensors(x: Tensor, name: str, target: Tensor) -> None:
    _check_dtype(x, name)
    if x.ndim == 0 or target.shape != x.shape[:-1]:
        raise ValueError(
            f"target has shape {tuple(target.shape)}; allowed is that of {name} without its last dimension, "
            f"{tuple(x.shape[:-1])}"
        )
    if target.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"target is {target.dtype}; allowed are torch.int64, torch.int32")
    if target.device != x.device:
        raise ValueError(f"target is on {target.device} and {name} on {x.device}; they must be on one device")


def _check_dtype(tensor: Tensor, name: str) -> None:
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name} is {tensor.dtype}; allowed are {', '.join(map(str, DTYPES))}")


def _rules(columns: int, call_id: int | None, ignore_index: int) -> Rules:
    if call_id is not None and not 0 <= call_id < columns:
        raise ValueError(f"call_id is {call_id}; allowed is 0 to {columns - 1}, a column of the vocabulary")
    if call_id is not None and columns == 1:
        raise ValueError(f"call_id is {call_id} in a vocabulary of 1; without CALL there must be a column left")
    return Rules(columns, -1 if call_id is None else call_id, ignore_index)


def _checked_target(target: Tensor, rules: Rules) -> Tensor:
    """As i64. Its range is looked at on the CPU only: elsewhere that would wait for the device."""
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        outside = target[(target != rules.ignored) & ((target < 0) | (target >= rules.columns))]
        if outside.numel():
            raise ValueError(
                f"target holds {outside[0].item()}; allowed is 0 to {rules.columns - 1}, or ignore_index "
                f"{rules.ignored}"
            )
    return target.long().contiguous()


def _checked_chosen(chosen: Tensor, target: Tensor, rules: Rules) -> Tensor:
    """As i64, one row after the other; its range is looked at where that of targets is."""
    if chosen.ndim != target.ndim + 1 or chosen.shape[:-1] != target.shape:
        raise ValueError(
            f"chosen has shape {tuple(chosen.shape)}; allowed is that of target and one dimension more, "
            f"({', '.join(map(str, target.shape))}, k)"
        )
    if chosen.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"chosen is {chosen.dtype}; allowed are torch.int64, torch.int32")
    if chosen.device != target.device:
        raise ValueError(f"chosen is on {chosen.device} and target on {target.device}; they must be on one device")
    flat = chosen.reshape(-1, chosen.shape[-1])
    if flat.numel() and flat.device.type == "cpu" and not torch.compiler.is_compiling():
        least, largest = flat.aminmax()
        if least < 0 or largest >= rules.columns:
            wrong = least if least < 0 else largest
            raise ValueError(f"chosen holds {wrong.item()}; allowed is 0 to {rules.columns - 1}")
    return flat.long().contiguous()
