"""Sweeps the configurations of a kernel on this GPU; prints the winner of each case for the tables.

Offline on purpose: a table that is checked in gives the same kernel, so the same rounding, in every process. A
candidate that does not compile here (shared memory) drops out, and so does one that is wrong, before it is timed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.attention import configurations as attention_configurations
from kernels.attention.configurations import HOPPER, Configuration, Tiles
from kernels.bench import attention as attention_bench
from kernels.bench import cross_entropy as cross_entropy_bench
from kernels.bench.attention import Inputs, Shape, make_inputs, ours, program
from kernels.bench.correctness import largest_error
from kernels.bench.record import Record
from kernels.bench.timing import Failed, Program, Spread, reason_of
from kernels.cross_entropy import configurations as row_configurations
from kernels.cross_entropy import cross_entropy
from kernels.cross_entropy.configurations import RowConfig

Winners = list[dict[str, Any]]
ROUNDINGS = 3.0  # in bf16, of the largest entry: so far a candidate may be from the configuration of today


def winners(record: Record, kernel: str, folder: Path) -> str:
    """Sweeps and writes ``tuned-<kernel>.json``; returns what to say."""
    found = {"attention": _attention, "cross_entropy": _cross_entropy}[kernel](record)
    path = folder / f"tuned-{kernel}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    record.append_csv(folder / "results.csv")
    lines = [f"{one['case']}: {one['winner']}  {one['ms']:.3f} ms (now {one['now_ms']:.3f} ms)" for one in found]
    table = {"attention": attention_configurations, "cross_entropy": row_configurations}[kernel].__name__
    return "\n".join([*lines, f"written to {path}; enter what is faster in {table}"])


def _attention(record: Record) -> Winners:
    """Forward first, then each kernel of backward with the others held; three short sweeps instead of their product."""
    found: Winners = []
    for shape in _attention_shapes(record):
        sets = [make_inputs(shape, seed, record.device) for seed in range(2)]
        documents = shape.mean_document is not None
        best = attention_configurations.chosen(sets[0].query, documents=documents)
        for part, mode in (("forward", "forward"), ("grad_query", "backward"), ("grad_key_value", "backward")):
            tried = (getattr(best, part), *_tiles(record))
            candidates = {f"{part} {tiles}": replace(best, **{part: tiles}) for tiles in tried}
            best, spread, before = _sweep_attention(record, shape, sets, mode, candidates)
            winner = asdict(getattr(best, part))
            times = {"ms": spread.median, "now_ms": before.median}
            found.append({"case": f"{shape} {shape.dtype}, {part}", "winner": winner, **times})
    return found


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
    shape: Shape | cross_entropy_bench.Shape,
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


def _cross_entropy(record: Record) -> Winners:
    """Both row kernels share a configuration, so they are timed together: given logits, forward and backward."""
    found: Winners = []
    for rows, vocab, dtype in _logits_shapes(record):
        shape = cross_entropy_bench.Shape(rows, 0, vocab, vocab, dtype)
        sets = [torch.randn(rows, vocab, device=record.device).to(dtype).requires_grad_() for _ in range(2)]
        target = torch.randint(vocab, (rows,), device=record.device)
        timed = _given_logits(record, sets, target)
        today = row_configurations.row_config(sets[0])
        candidates = {str(config): config for config in (today, *_row_configs(record))}
        right = timed.run(sets[0])

        def correct(_: object, timed: Program = timed, first: Tensor = sets[0], right: Any = right) -> bool:
            found: Any = timed.run(first)
            nll, grad = found
            near = torch.allclose(nll, right[0], rtol=1e-5, atol=1e-5)
            return near and largest_error(grad, right[1].double()) <= 2**-8 * float(right[1].abs().max())

        best, spread, before = _sweep(record, shape, "full", candidates, timed, trying_rows, correct)
        times = {"ms": spread.median, "now_ms": before.median}
        found.append({"case": f"N{rows} V{vocab} {dtype}", "winner": best._asdict(), **times})
    return found


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
