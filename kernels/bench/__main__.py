"""``python -m kernels.bench``: are the kernels right, and how fast are they?

First correctness against fp64 (a wrong kernel ends the run with exit code 1), then one table of every goal, then files:
``results.csv`` (appended), ``goals.md`` and charts. A goal that is missed is part of the table, not an error.
``docs/guides/kernels.md`` says how to read it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernels.bench.record import Record

KERNELS = ("cross_entropy", "attention", "end_to_end")
NO_GPU = (
    "kernels.bench measures on a CUDA device, and there is none here. Run it on a machine with one (it needs torch, "
    "triton and this repository), or add --rehearse to go through the same code on this CPU with tiny shapes."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 (a kernel is wrong) or 2 (no device to measure on)."""
    wish = _parser().parse_args(arguments)
    import torch

    if not torch.cuda.is_available() and not wish.rehearse:
        print(NO_GPU, file=sys.stderr)
        return 2
    from kernels.bench import correctness, tune
    from kernels.bench.record import describe
    from kernels.bench.report import markdown_table, summary, text_table

    record = _record(wish.rehearse, wish.quick)
    machine = describe(record.device)
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"our kernels run with: {record.ours}")
    wish.out.mkdir(parents=True, exist_ok=True)
    if wish.tune:
        print(tune.winners(record, wish.tune, wish.out))
        return 0
    chosen = [wish.only] if wish.only else list(KERNELS)
    wrong = correctness.failures(record, chosen)
    if wrong:
        print("WRONG NUMBERS, nothing is timed:", *wrong, sep="\n  ")
        return 1
    started = time.perf_counter()
    _measure(record, chosen)
    if wish.write_choices:
        from kernels.bench import choices

        choices.write(record, choices.measure(record), wish.write_choices)
    record.complete(f"--only {wish.only}" if wish.only else "no shape of this run has it")
    print(f"measured in {time.perf_counter() - started:.0f} s\n\n{text_table(record.rows)}\n\n{summary(record.rows)}")
    _write(record, wish.out, markdown_table(record.rows, machine, "Rehearsal: no goal." if record.rehearsal else ""))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", choices=KERNELS, help="one kernel's goals")
    parser.add_argument("--quick", action="store_true", help="fewer shapes")
    parser.add_argument("--out", type=Path, default=Path("build/kernels"), help="folder of the files (%(default)s)")
    parser.add_argument("--write-choices", type=Path, metavar="PATH", help="also write the table that dispatch reads")
    parser.add_argument("--tune", choices=("attention", "cross_entropy"), help="instead: sweep configurations")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, without a GPU too; no row is a verdict")
    return parser


def _record(rehearse: bool, quick: bool) -> Record:
    import torch

    from kernels.bench.record import Record
    from kernels.bench.timing import Stopwatch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if rehearse:
        torch.set_num_threads(1)  # threads that wait for each other cost more than tiny shapes do
        stopwatch = Stopwatch(device, budget_ms=1, rounds=(1, 1))
    else:
        stopwatch = Stopwatch(device, budget_ms=100 if quick else 300)
    return Record(stopwatch, _implementation(device.type), rehearse, quick)


def _implementation(device: str) -> str:
    """Triton wherever it can run. On a CPU that is its interpreter, which needs numpy besides."""
    from importlib.util import find_spec

    from kernels.dispatch import interpreted

    if device == "cuda":
        return "triton"
    if interpreted() and find_spec("numpy") is None:
        print("Triton's interpreter needs numpy, which is not installed: rehearsing the PyTorch implementations")
        return "torch"
    return "triton" if interpreted() else "torch"


def _measure(record: Record, chosen: Sequence[str]) -> None:
    from kernels.bench import attention, cross_entropy, end_to_end

    for kernel in chosen:
        print(kernel)
        {"cross_entropy": cross_entropy, "attention": attention, "end_to_end": end_to_end}[kernel].measure(record)


def _write(record: Record, folder: Path, table: str) -> None:
    from kernels.bench import pictures

    record.append_csv(folder / "results.csv")
    (folder / "goals.md").write_text(table)
    names = pictures.write(record, folder)
    print(f"written to {folder}: results.csv, goals.md, {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
