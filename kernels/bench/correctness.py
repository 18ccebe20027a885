"""Before any time is taken: are the numbers right? Goals C8, A7 and A8.

The rule is relative: our error against fp64 may be a little larger than the error that PyTorch makes in the same dtype,
plus one unit in the last place. A fast wrong kernel ends the run here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from kernels.attention.reference import attention_reference
from kernels.bench import attention as attention_bench
from kernels.bench import cross_entropy as cross_entropy_bench
from kernels.bench.goals import GOALS
from kernels.bench.record import Record
from kernels.bench.sections import Section
from kernels.bench.shapes import AttentionShape, LossShape
from kernels.cross_entropy import TokenStats, cross_entropy, linear_token_stats, reference

CALL_COLUMN = 7
IGNORED = -100


def sections(record: Record) -> list[Section]:
    """The checks; each returns one sentence for everything that does not hold, and adds the rows of its goals."""
    sizes = (12, 32, 123, 128) if record.rehearsal else (4096, 768, 50257, 50304)
    loss = LossShape(*sizes, torch.float32 if record.rehearsal else torch.bfloat16)
    return [
        *(
            Section(
                "correctness",
                "attention",
                f"attention {shape} {shape.dtype}",
                ("A7 forward", "A7 gradients", "A8"),
                partial(_attention, shape=shape),
            )
            for shape in _attention_shapes(record)
        ),
        Section(
            "correctness",
            "cross_entropy",
            f"cross-entropy {loss} {loss.dtype}",
            ("C8 loss", "C8 gradient"),
            partial(_cross_entropy, shape=loss),
        ),
    ]


def relative_error(found: Tensor, exact: Tensor) -> float:
    """``|found - exact| / |exact|`` in the Euclidean norm; infinite if anything is not finite."""
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found.detach().double() - exact).norm() / exact.norm().clamp_min(1e-300))


def largest_error(found: Tensor, exact: Tensor) -> float:
    """``max |found - exact|``; infinite if anything is not finite."""
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found.detach().double() - exact).abs().max())


def last_place(exact: Tensor, dtype: torch.dtype) -> float:
    """The error of rounding the largest entry to ``dtype``, twice over: what no comparison can go below."""
    return 2.0 * float(exact.abs().max()) * torch.finfo(dtype).eps / 2


def _cross_entropy(record: Record, shape: LossShape) -> list[str]:
    dtype = shape.dtype
    given = cross_entropy_bench.make_inputs(shape, 0, record.device)
    target = given.target.clone()
    target[::10] = IGNORED
    found = _loss_of_logits(record, shape, target)

    def gradients(loss: Callable[[Tensor, Tensor], Tensor], wanted: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [leaf.detach().to(wanted).requires_grad_() for leaf in given.leaves]
        return torch.autograd.grad(loss(*leaves), leaves)

    def eager(hidden: Tensor, weight: Tensor) -> Tensor:
        stats = reference.logit_token_stats(
            _accurate(hidden @ weight.T), target, call_id=CALL_COLUMN, n_cols=shape.vocab
        )
        return _loss_of(stats)

    def by_token(mode: str, hidden: Tensor, weight: Tensor) -> Tensor:
        stats = linear_token_stats(
            hidden,
            weight,
            target,
            call_id=CALL_COLUMN,
            n_cols=shape.vocab,
            mode=mode,  # type: ignore[arg-type]
            impl=record.ours,  # type: ignore[arg-type]
        )
        return _loss_of(stats)

    exact = gradients(eager, torch.float64)
    plain = gradients(eager, dtype)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "save": partial(by_token, "save"),
        "recompute": partial(by_token, "recompute"),
    }
    for mode, loss in ways.items():
        for name, own, theirs, truth in zip(("dX", "dW"), gradients(loss, dtype), plain, exact, strict=True):
            errors = relative_error(own, truth), relative_error(theirs, truth)
            floor = torch.finfo(dtype).eps
            found += _judge(record, "C8 gradient", f"{shape}, {mode}, {name}", *errors, floor)
    return found


def _loss_of_logits(record: Record, shape: LossShape, target: Tensor) -> list[str]:
    generator = torch.Generator(record.device).manual_seed(1)
    sizes = (shape.rows, shape.vocab)
    logits = torch.randn(sizes, generator=generator, device=record.device, dtype=torch.float32).to(shape.dtype)
    own = cross_entropy(logits, target, ignore_index=IGNORED, impl=record.ours)  # type: ignore[arg-type]
    exact = F.cross_entropy(logits.double(), target, ignore_index=IGNORED, reduction="none")
    error = relative_error(own, exact)
    record.row("C8 loss", str(shape), f"{error:.1e}", "fp64", error)
    sentences = [] if GOALS["C8 loss"].must.holds(error) else [f"C8 loss {shape}: relative error {error:.1e}"]
    if bool((own[target == IGNORED] != 0).any()):
        sentences.append("C8 loss: ignored rows have a loss other than 0")
    return sentences


def _accurate(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _token_losses(stats: TokenStats) -> Tensor:
    """Touches every output: the call-excluded loss, and a little of log P(<CALL>)."""
    return stats.nll_excl - 0.1 * stats.logp_call.masked_fill(stats.ignored, 0.0)


def _loss_of(stats: TokenStats) -> Tensor:
    return _token_losses(stats).sum()


def _attention(record: Record, shape: AttentionShape) -> list[str]:
    given = attention_bench.make_inputs(shape, 0, record.device)
    documents = shape.mean_document is not None
    own = attention_bench.ours(record.ours, documents)
    theirs = attention_bench.sdpa_mask(given) if documents else attention_bench.sdpa(SDPBackend.FLASH_ATTENTION)

    def results(provider: Callable[[attention_bench.Inputs], Tensor]) -> tuple[Tensor, ...]:
        out = provider(given)
        return out, *torch.autograd.grad(out, given.leaves, given.upstream)

    mine, again, plain = results(own), results(own), results(theirs)
    leaves = [leaf.detach().double().requires_grad_() for leaf in given.leaves]
    truth = attention_reference(leaves[0], leaves[1], leaves[2], given.doc_start if documents else None)
    exact = truth.detach(), *torch.autograd.grad(truth, leaves, given.upstream.double())
    found: list[str] = []
    for name, one, other, right in zip(("out", "dQ", "dK", "dV"), mine, plain, exact, strict=True):
        errors = largest_error(one, right), largest_error(other, right)
        goal = "A7 forward" if name == "out" else "A7 gradients"
        found += _judge(record, goal, f"{shape}, {name}", *errors, last_place(right, shape.dtype))
    differing = sum(int((one != other).sum()) for one, other in zip(mine, again, strict=True))
    record.row("A8", str(shape), str(differing), "", float(differing))
    return found + ([f"A8 {shape}: {differing} elements differ between two runs"] if differing else [])


def _judge(record: Record, goal: str, shape: str, own: float, theirs: float, rounding: float) -> list[str]:
    """Adds the row; a sentence if our error is beyond the goal's factor and beyond rounding."""
    record.row(goal, shape, f"{own:.2e}", f"{theirs:.2e} torch", own / max(theirs, 1e-300))
    allowed = GOALS[goal].must.limit * theirs + rounding
    if own <= allowed:
        return []
    return [f"{goal} {shape}: error {own:.2e} against fp64, torch's is {theirs:.2e}, allowed {allowed:.2e}"]


def _attention_shapes(record: Record) -> list[AttentionShape]:
    shape = AttentionShape
    if record.rehearsal:
        return [shape(1, 48, 2, 1, 16, torch.float32), shape(1, 48, 2, 1, 16, torch.float32, mean_document=9)]
    return [
        shape(2, 1024, 12, 12, 64),
        shape(2, 1024, 16, 4, 128),
        shape(2, 1000, 12, 3, 64, mean_document=130),
        shape(2, 1000, 16, 4, 128, mean_document=130),
        shape(1, 1024, 12, 12, 64, torch.float16, mean_document=256),
    ]
