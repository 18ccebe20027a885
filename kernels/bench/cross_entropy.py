"""Goals C1 to C7: the head and its loss, beside eager and compiled PyTorch, Liger, and the bare matrix products.

A time is forward and backward, gradients of hidden states and weight included, from bf16 leaves. The floor is the three
matrix products that cannot be left out, each timed alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.bench import estimates
from kernels.bench.record import Record
from kernels.bench.sections import Section
from kernels.bench.shapes import LossShape as Shape
from kernels.bench.timing import Failed, Program, Spread, reason_of
from kernels.cross_entropy import cross_entropy, linear_token_stats

INPUT_SETS = 3
DELEGATED = 0.1  # share of tokens that the delegation loss sends to <CALL>


@dataclass(frozen=True)
class Inputs:
    """One set of inputs; the last column of the vocabulary stands for <CALL>."""

    hidden: Tensor
    weight: Tensor
    target: Tensor
    vocab: int

    @property
    def leaves(self) -> tuple[Tensor, Tensor]:
        return self.hidden, self.weight

    @property
    def call_id(self) -> int:
        return self.vocab - 1


Loss = Callable[[Inputs], Tensor]


def make_inputs(shape: Shape, seed: int, device: torch.device) -> Inputs:
    """Normal hidden states, a weight that gives logits of about unit variance, uniform targets."""
    generator = torch.Generator(device).manual_seed(seed)
    sizes = (shape.rows, shape.width), (shape.padded, shape.width)
    hidden, weight = (torch.randn(size, generator=generator, device=device, dtype=torch.float32) for size in sizes)
    target = torch.randint(shape.vocab - 1, (shape.rows,), generator=generator, device=device)
    weight = (weight * shape.width**-0.5).to(shape.dtype).requires_grad_()
    return Inputs(hidden.to(shape.dtype).requires_grad_(), weight, target, shape.vocab)


def _columns(given: Inputs) -> int | None:
    return given.vocab if given.vocab < given.weight.shape[0] else None


def ours_by_token(impl: str, mode: str, given: Inputs, *, call: bool = False) -> Tensor:
    """Statistics first, the mean of the token losses after: SAVE and RECOMPUTE."""
    stats = linear_token_stats(
        *given.leaves,
        given.target,
        call_id=given.call_id if call else None,
        n_cols=_columns(given),
        mode=mode,  # type: ignore[arg-type]
        impl=impl,  # type: ignore[arg-type]
    )
    return stats.nll_full.mean()


def plain_loss(given: Inputs) -> Tensor:
    """What everybody writes first: logits in fp32, ``F.cross_entropy``."""
    logits = (given.hidden @ given.weight.T)[:, : given.vocab].float()
    return F.cross_entropy(logits, given.target)


def compiled_loss(given: Inputs) -> Tensor:
    """``plain_loss``, compiled on a GPU."""
    logits_loss: Tensor = _compiled(_plain_loss, given.hidden.is_cuda)(*given.leaves, given.target, given.vocab)
    return logits_loss


def _plain_loss(hidden: Tensor, weight: Tensor, target: Tensor, vocab: int) -> Tensor:
    return F.cross_entropy((hidden @ weight.T)[:, :vocab].float(), target)


def liger(reduction: str) -> Callable[[Inputs], Tensor]:
    """Liger's fused linear cross-entropy. Raises ``ImportError`` where its wheel is missing."""
    module = importlib.import_module("liger_kernel.transformers.fused_linear_cross_entropy")
    layer = module.LigerFusedLinearCrossEntropyLoss(reduction=reduction)

    def call(given: Inputs) -> Tensor:
        result: Tensor = layer(given.weight[: given.vocab], given.hidden, given.target)
        return result

    return call


def cut_cross_entropy() -> Loss:
    """Apple's CCE, with every gradient (``cce_exact``). Raises ``ImportError`` where its wheel is missing."""
    function = importlib.import_module("cut_cross_entropy").linear_cross_entropy

    def call(given: Inputs) -> Tensor:
        result: Tensor = function(given.hidden, given.weight[: given.vocab], given.target, impl="cce_exact")
        return result

    return call


def delegation_loss(nll_excl: Tensor, logp_call: Tensor) -> Tensor:
    """The tenth of the tokens that cost most learn to call, the others their word; chosen over the whole batch."""
    chosen = nll_excl.detach().topk(max(int(DELEGATED * nll_excl.numel()), 1)).indices
    delegated = torch.zeros_like(nll_excl, dtype=torch.bool).index_fill_(0, chosen, True)
    return torch.where(delegated, -logp_call, nll_excl).mean()


def ours_delegating(impl: str, given: Inputs) -> Tensor:
    """The delegation loss on our statistics."""
    stats = linear_token_stats(
        *given.leaves,
        given.target,
        call_id=given.call_id,
        n_cols=_columns(given),
        impl=impl,  # type: ignore[arg-type]
    )
    return delegation_loss(stats.nll_excl, stats.logp_call)


def compiled_delegating(given: Inputs) -> Tensor:
    """The delegation loss as two log-softmaxes, with and without <CALL>, compiled on a GPU."""
    function = _compiled(_delegating_by_softmax, given.hidden.is_cuda)
    result: Tensor = function(*given.leaves, given.target, given.vocab)
    return result


def _delegating_by_softmax(hidden: Tensor, weight: Tensor, target: Tensor, vocab: int) -> Tensor:
    logits = (hidden @ weight.T)[:, :vocab].float()
    without_call = torch.log_softmax(logits[:, :-1], dim=-1)
    logp_call = torch.log_softmax(logits, dim=-1)[:, -1]
    return delegation_loss(-without_call.gather(1, target[:, None])[:, 0], logp_call)


def liger_delegating(by_token: Callable[[Inputs], Tensor], given: Inputs) -> Tensor:
    """As near as Liger comes: token losses weighted by the same choice; it has no log P(<CALL>), so it does less."""
    nll = by_token(given)
    return delegation_loss(nll, -nll)


def program(name: str, loss: Loss, sets: Sequence[Inputs]) -> Program:
    """Forward and backward of a loss on rotated inputs."""

    def run(given: Inputs) -> object:
        return torch.autograd.grad(loss(given), given.leaves)

    return Program(name, run, lambda number: sets[number % len(sets)])


def sections(record: Record) -> list[Section]:
    """All cross-entropy goals that are times or memory (errors: ``correctness``)."""
    shapes = loss_shapes(record)
    timed = (
        "C1",
        "C2",
        "C2 memory",
        "C3 save time",
        "C3 save memory",
        "C3 recompute time",
        "C3 recompute memory",
        "C7",
    )
    found = []
    for shape in shapes:
        goals = tuple(f"{name} {_kind(shape)}" if name in ("C1", "C2") else name for name in timed)
        found.append(Section("goals", "cross_entropy", f"cross-entropy {shape}", goals, partial(_losses, shape=shape)))
    peers = f"cross-entropy {shapes[0]}: Liger, CCE, delegation"
    goals = ("C4 liger", "C4 cce", "C5 liger", "C5 compiled")
    found.append(Section("goals", "cross_entropy", peers, goals, partial(_peers, shape=shapes[0])))
    for rows, vocab in _logits_shapes(record):
        what = f"cross-entropy of given logits N{rows} V{vocab}"
        run = partial(_given_logits, rows=rows, vocab=vocab)
        found.append(Section("goals", "cross_entropy", what, ("C6 forward", "C6 full"), run))
    return found


_COMPARED: list[tuple[str, estimates.LossWay, estimates.LossWay]] = [
    ("C2", "save", "eager"),
    ("C3 save time", "save", "compiled"),
    ("C3 recompute time", "recompute", "compiled"),
]


def _losses(record: Record, shape: Shape) -> None:
    sets = [make_inputs(shape, seed, record.device) for seed in range(INPUT_SETS)]
    losses: dict[str, Loss] = {
        "save": partial(ours_by_token, record.ours, "save"),
        "save_call": partial(ours_by_token, record.ours, "save", call=True),
        "recompute": partial(ours_by_token, record.ours, "recompute"),
        "eager": plain_loss,
        "compiled": compiled_loss,
    }
    programs = {name: program(name, loss, sets) for name, loss in losses.items()}
    times = record.measure("cross_entropy", "full", shape.rows, shape.config, list(programs.values()))
    floor = _floor(record, shape, sets)
    label, kind = str(shape), _kind(shape)
    expected = estimates.loss_milliseconds(shape, "save") / estimates.product_milliseconds(shape)
    record.ratio(f"C1 {kind}", label, times["save"], floor, speed_up=False, expected=expected)
    for goal, ours, baseline in _COMPARED:
        expected = estimates.loss_speed_up(shape, ours, baseline)
        goal = f"C2 {kind}" if goal == "C2" else goal
        record.ratio(goal, label, times[ours], times[baseline], expected=expected)
    record.ratio("C7", label, times["save_call"], times["save"], speed_up=False, expected=1.0)
    peaks = {
        name: record.peak("cross_entropy", "full", shape.rows, shape.config, programs[name])
        for name in ("save", "recompute", "eager", "compiled")
    }
    record.share("C2 memory", label, peaks["save"], peaks["eager"], estimates.loss_memory("save", "eager"))
    record.share("C3 save memory", label, peaks["save"], peaks["compiled"], estimates.loss_memory("save", "compiled"))
    record.share("C3 recompute memory", label, peaks["recompute"], peaks["compiled"])


def _floor(record: Record, shape: Shape, sets: Sequence[Inputs]) -> Spread | Failed:
    """The sum of the three products, each timed alone on random data (zeros would run faster)."""
    sizes = (shape.rows, shape.padded)
    upstream = torch.randn(sizes, device=record.device, dtype=shape.dtype)
    logits = torch.empty_like(upstream)

    def chosen(number: int) -> tuple[Tensor, Tensor]:
        given = sets[number % len(sets)]
        return given.hidden.detach(), given.weight.detach()

    products = [
        Program("mm_logits", lambda pair: torch.mm(pair[0], pair[1].T, out=logits), chosen),
        Program("mm_hidden", lambda pair: torch.mm(upstream, pair[1]), chosen),
        Program("mm_weight", lambda pair: torch.mm(upstream.T, pair[0]), chosen),
    ]
    times = list(record.measure("cross_entropy", "product", shape.rows, shape.config, products).values())
    whole = Spread(0.0, 0.0, 0.0)
    for time in times:
        if isinstance(time, Failed):
            return time
        whole = whole + time
    record.keep("cross_entropy", "floor", "full", "milliseconds", shape.rows, whole, shape.config)
    return whole


def peers() -> dict[str, Callable[[], Loss]]:
    """Losses of other projects, by how they are made. Those of one name are compared with ours of the same kind."""
    return {
        "liger": lambda: liger("mean"),
        "liger_delegating": lambda: partial(liger_delegating, liger("none")),
        "cce": cut_cross_entropy,
    }


def _peers(record: Record, shape: Shape) -> None:
    sets = [make_inputs(shape, seed, record.device) for seed in range(INPUT_SETS)]
    losses: dict[str, Loss] = {
        "save": partial(ours_by_token, record.ours, "save"),
        "delegating": partial(ours_delegating, record.ours),
        "compiled_delegating": compiled_delegating,
    }
    absent: dict[str, Spread | Failed] = {}
    for name, maker in peers().items():
        try:
            losses[name] = maker()
        except Exception as error:  # a baseline that this machine lacks must not end the table
            absent[name] = Failed(reason_of(error))
    programs = [program(name, loss, sets) for name, loss in losses.items()]
    times = {**absent, **record.measure("cross_entropy", "full", shape.rows, shape.config, programs)}
    compared: list[tuple[str, str, str, float | None]] = [
        ("C4 liger", "save", "liger", estimates.loss_speed_up(shape, "save", "liger")),
        ("C4 cce", "save", "cce", estimates.loss_speed_up(shape, "save", "cce")),
        ("C5 liger", "delegating", "liger_delegating", estimates.loss_speed_up(shape, "delegating", "liger")),
        (
            "C5 compiled",
            "delegating",
            "compiled_delegating",
            estimates.loss_speed_up(shape, "delegating", "compiled_delegating"),
        ),
    ]
    for goal, ours, baseline, expected in compared:
        record.ratio(goal, str(shape), times[ours], times[baseline], expected=expected)


def _given_logits(record: Record, rows: int, vocab: int) -> None:
    """Bandwidth: forward reads the logits once, backward reads and writes them once more; a copy does both once."""
    dtype = torch.float32 if record.rehearsal else torch.bfloat16
    sets = [torch.randn(rows, vocab, device=record.device, dtype=dtype).requires_grad_() for _ in range(2)]
    target = torch.randint(vocab, (rows,), device=record.device)
    landing = torch.empty_like(sets[0])
    passed_bytes = rows * vocab * dtype.itemsize

    def forward(logits: Tensor) -> Tensor:
        return cross_entropy(logits, target, impl=record.ours)  # type: ignore[arg-type]

    def full(logits: Tensor) -> object:
        return torch.autograd.grad(forward(logits).mean(), logits)

    def chosen(number: int) -> Tensor:
        return sets[number % len(sets)]

    programs = [
        Program("forward", forward, chosen),
        Program("full", full, chosen),
        Program("copy", lambda logits: landing.copy_(logits.detach()), chosen),
    ]
    config: dict[str, object] = {"rows": rows, "vocab": vocab}
    times = record.measure("cross_entropy", "logits", vocab, config, programs)
    copied = _rate(times["copy"], 2 * passed_bytes)
    for name, passes in (("forward", 1), ("full", 3)):
        rate, label = _rate(times[name], passes * passed_bytes), f"N{rows} V{vocab}"
        if isinstance(rate, Failed) or isinstance(copied, Failed):
            record.row(
                f"C6 {name}", label, reason=next(one.reason for one in (rate, copied) if isinstance(one, Failed))
            )
            continue
        record.keep("cross_entropy", record.ours, name, "GB/s", vocab, Spread(rate, rate, rate), config)
        record.row(f"C6 {name}", label, f"{rate:,.0f} GB/s", f"{copied:,.0f} GB/s copy", rate / copied)


def _rate(time: Spread | Failed, passed_bytes: int) -> float | Failed:
    return time if isinstance(time, Failed) else passed_bytes / time.median / 1e6


def _kind(shape: Shape) -> str:
    return "wide" if shape.width >= 2048 else "narrow"


def loss_shapes(record: Record) -> list[Shape]:
    if record.rehearsal:
        return [Shape(12, 32, 123, 128, torch.float32)]
    head = [Shape(32768, 768, 50304, 50304), Shape(32768, 2048, 50304, 50304)]
    more = [Shape(65536, 768, 50304, 50304), Shape(65536, 1024, 32769, 32896)]
    return head if record.quick else [*head, *more]


def _logits_shapes(record: Record) -> list[tuple[int, int]]:
    if record.rehearsal:
        return [(8, 96)]
    return [(16384, vocab) for vocab in ([32768, 131072] if record.quick else [32768, 65536, 131072])]


@cache
def _compiled(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False) if compiled else function
