"""Sweeps the configurations of a kernel on this GPU; prints the winner of each case for the tables.

Offline on purpose: a table that is checked in gives the same kernel, so the same rounding, in every process. Candidates
are compiled ahead of time first, many at once (``prefilter.py``): most drop out there. One that does not run here drops
out next, and so does one that is wrong, before it is timed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.attention import configurations as attention_configurations
from kernels.attention.configurations import HOPPER, Case, Configuration, Tiles
from kernels.bench import attention as attention_bench
from kernels.bench import prefilter
from kernels.bench.attention import Inputs, make_inputs, ours, program
from kernels.bench.correctness import largest_error
from kernels.bench.record import Record
from kernels.bench.sections import Section
from kernels.bench.shapes import AttentionShape as Shape
from kernels.bench.shapes import LossShape
from kernels.bench.timing import Failed, Program, Spread, reason_of
from kernels.cross_entropy import configurations as row_configurations
from kernels.cross_entropy import cross_entropy
from kernels.cross_entropy.configurations import RowConfig

Winner = dict[str, Any]  # case, winner, ms, now_ms
ROUNDINGS = 3.0  # in bf16, of the largest entry: so far a candidate may be from the configuration of today
PARTS = {"forward": "forward", "grad_query": "backward", "grad_key_value": "backward"}  # kernel: what is timed


def sections(record: Record) -> list[Section]:
    """Each kernel of attention with the others as the table has them, instead of their product; then the rows."""
    found = []
    for shape in _attention_shapes(record):
        for part in PARTS:
            run = partial(_attention, shape=shape, part=part)
            found.append(Section("tune", "attention", f"attention {shape} {shape.dtype}, {part}", (), run))
    for rows, vocab, dtype in _logits_shapes(record):
        shape_of_loss = LossShape(rows, 0, vocab, vocab, dtype)
        what = f"rows N{rows} V{vocab} {dtype}"
        found.append(Section("tune", "cross_entropy", what, (), partial(_cross_entropy, shape=shape_of_loss)))
    return found


def write(found: list[Winner], kernel: str, folder: Path) -> str:
    """Writes ``tuned-<kernel>.json``; returns what to say."""
    path = folder / f"tuned-{kernel}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    lines = [f"{one['case']}: {one['winner']}  {one['ms']:.3f} ms (now {one['now_ms']:.3f} ms)" for one in found]
    table = {"attention": attention_configurations, "cross_entropy": row_configurations}[kernel].__name__
    return "\n".join([*lines, f"written to {path}; enter what is faster in {table}"])


def _attention(record: Record, shape: Shape, part: str) -> Winner:
    sets = [make_inputs(shape, seed, record.device) for seed in range(2)]
    today = attention_configurations.chosen(sets[0].query, documents=shape.mean_document is not None)
    tried = list(_tiles(record))
    if not record.rehearsal:
        case = Case(
            torch.cuda.get_device_capability(record.device), shape.dtype, shape.head_dim, bool(shape.mean_document)
        )
        kept = prefilter.survivors(case, part, tried, shape.heads // shape.kv_heads)
        record.say(f"    {len(kept)} of {len(tried)} candidates compile without spills and serialised products")
        tried = kept
    candidates = {f"{part} {tiles}": replace(today, **{part: tiles}) for tiles in (getattr(today, part), *tried)}
    best, spread, before = _sweep_attention(record, shape, sets, PARTS[part], candidates)
    times = {"ms": spread.median, "now_ms": before.median}
    return {"case": f"{shape} {shape.dtype}, {part}", "winner": asdict(getattr(best, part)), **times}


def _sweep_attention(
    record: Record, shape: Shape, sets: list[Inputs], mode: str, candidates: dict[str, Configuration]
) -> tuple[Configuration, Spread, Spread]:
    provider = ours(record.ours, shape.mean_document is not None)
    right = _attention_results(provider, sets[0])

    def correct(_: object) -> bool:
        exact = [one.double() for one in right]
        errors = [
            largest_error(one, two) for one, two in zip(_attention_results(provider, sets[0]), exact, strict=True)
        ]
        return all(
            error <= ROUNDINGS * 2**-8 * float(two.abs().max()) for error, two in zip(errors, exact, strict=True)
        )

    timed = program("candidate", provider, sets, mode)
    return _sweep(record, shape, mode, candidates, timed, attention_configurations.trying, correct)


def _attention_results(provider: attention_bench.Provider, given: Inputs) -> list[torch.Tensor]:
    out = provider(given)
    return [out.detach(), *torch.autograd.grad(out, given.leaves, given.upstream)]


def _sweep(
    record: Record,
    shape: Shape | LossShape,
    mode: str,
    candidates: dict[str, Any],
    timed: Program,
    trying: Callable[[Any], AbstractContextManager[None]],
    correct: Callable[[object], bool],
) -> tuple[Any, Spread, Spread]:
    """The fastest correct candidate, its time, and the time of the first one: what the table says today."""
    times: dict[str, Spread] = {}
    for number, (label, candidate) in enumerate(candidates.items()):
        with trying(candidate):
            try:
                if not correct(candidate):
                    record.say(f"    {shape} {label}: WRONG numbers, dropped")
                    continue
            except Exception as error:
                record.say(f"    {shape} {label}: {reason_of(error)}")
                continue
            time = record.stopwatch.measure([timed])[timed.name]
        if isinstance(time, Failed):
            record.say(f"    {shape} {label}: {time.reason}")
            continue
        times[label] = time
        record.say(f"    {shape} {label}: {time.median:.3f} ms")
        config = {**shape.config, "candidate": label}
        record.keep("tune", label, mode, "milliseconds", number, time, config)
    if not times:
        raise RuntimeError(f"no candidate runs for {shape} {mode}")
    fastest = min(times, key=lambda label: times[label].median)
    return candidates[fastest], times[fastest], times.get(next(iter(candidates)), times[fastest])


def _tiles(record: Record) -> Iterator[Tiles]:
    if record.rehearsal:
        yield Tiles(16, 16)
        return
    described = torch.cuda.get_device_capability() >= HOPPER
    for rows, keys, warps, stages in product((64, 128), (32, 64, 128), (4, 8), (2, 3, 4)):
        if warps == 4 or rows * keys >= 64 * 128:  # eight warps on a small tile only wait for each other
            yield Tiles(rows, keys, warps, stages, described)


def _attention_shapes(record: Record) -> list[Shape]:
    if record.rehearsal:
        return [Shape(1, 32, 1, 1, 16, torch.float32)]
    shapes = [Shape(8, 4096, 12, 12, 64), Shape(8, 4096, 16, 16, 128)]
    return [replace(shape, mean_document=mean) for shape in shapes for mean in (None, 512)]


def _cross_entropy(record: Record, shape: LossShape) -> Winner:
    """Both row kernels share a configuration, so they are timed together: given logits, forward and backward."""
    sizes = shape.rows, shape.vocab
    sets = [torch.randn(sizes, device=record.device).to(shape.dtype).requires_grad_() for _ in range(2)]
    target = torch.randint(shape.vocab, (shape.rows,), device=record.device)
    timed = _given_logits(record, sets, target)
    today = row_configurations.row_config(sets[0])
    candidates = {str(config): config for config in (today, *_row_configs(record))}
    right: Any = timed.run(sets[0])

    def correct(_: object) -> bool:
        found: Any = timed.run(sets[0])
        nll, grad = found
        near = torch.allclose(nll, right[0], rtol=1e-5, atol=1e-5)
        return near and largest_error(grad, right[1].double()) <= 2**-8 * float(right[1].abs().max())

    best, spread, before = _sweep(record, shape, "full", candidates, timed, trying_rows, correct)
    times = {"ms": spread.median, "now_ms": before.median}
    return {"case": f"N{shape.rows} V{shape.vocab} {shape.dtype}", "winner": best._asdict(), **times}


def _given_logits(record: Record, sets: list[Tensor], target: Tensor) -> Program:
    def run(logits: Tensor) -> object:
        nll = cross_entropy(logits, target, impl=record.ours)  # type: ignore[arg-type]
        return nll.detach(), *torch.autograd.grad(nll.mean(), logits)

    return Program("candidate", run, lambda number: sets[number % len(sets)])


@contextmanager
def trying_rows(config: RowConfig) -> Iterator[None]:
    """Within the block, the row kernels use ``config`` whatever their table says."""
    table = row_configurations.row_config
    row_configurations.row_config = lambda logits: config
    try:
        yield
    finally:
        row_configurations.row_config = table


def _row_configs(record: Record) -> Iterator[RowConfig]:
    for block, warps in [(64, 4)] if record.rehearsal else product((1024, 2048, 4096, 8192, 16384), (4, 8, 16)):
        yield RowConfig(block, warps)


def _logits_shapes(record: Record) -> list[tuple[int, int, torch.dtype]]:
    if record.rehearsal:
        return [(8, 96, torch.float32)]
    return [(16384, vocab, torch.bfloat16) for vocab in (32896, 50304, 131072)] + [(8192, 50304, torch.float32)]
