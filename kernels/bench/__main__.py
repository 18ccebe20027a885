"""``python -m kernels.bench``: are the kernels right, and how fast are they?

First correctness against fp64 (a wrong kernel ends the run with exit code 1), then one table of every goal, then files:
``results.csv`` (appended), ``goals.md`` and charts. A goal that is missed is part of the table, not an error. Every
section is saved when it is done: the same command, typed again, goes on where the last one ended (exit code 3: there is
something left). ``docs/guides/kernels.md`` says how to read the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kernels.bench.progress import Progress
    from kernels.bench.record import Record
    from kernels.bench.sections import Part, Section

KERNELS = ("cross_entropy", "attention", "end_to_end")
DONE, WRONG, NOT_HERE, LEFT = 0, 1, 2, 3
NO_GPU = (
    "kernels.bench measures on a CUDA device, and there is none here. Run it on a machine with one (it needs torch, "
    "triton and this repository), or add --rehearse to go through the same code on this CPU with tiny shapes."
)


class Run(NamedTuple):
    """What a command is about."""

    record: Record
    progress: Progress
    sections: list[Section]
    minutes: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 (a kernel is wrong), 2 (cannot measure here) or 3 (sections left)."""
    wish = _parser().parse_args(arguments)
    import torch

    if not torch.cuda.is_available() and not (wish.rehearse or wish.list):
        print(NO_GPU, file=sys.stderr)
        return NOT_HERE
    from kernels.bench.progress import Progress
    from kernels.bench.record import describe

    record = _record(wish.rehearse, wish.quick)
    wish.out.mkdir(parents=True, exist_ok=True)
    if wish.fresh:
        (wish.out / "progress.jsonl").unlink(missing_ok=True)
    progress = Progress(wish.out / "progress.jsonl", record)
    try:
        sections = _sections(record, wish)
    except ValueError as error:
        print(error, file=sys.stderr)
        return NOT_HERE
    run = Run(record, progress, sections, wish.minutes)
    if wish.list:
        print("\n".join(_listed(run)))
        return DONE
    print(", ".join(f"{key} {value}" for key, value in describe(record.device).items()))
    print(f"our kernels run with: {record.ours}")
    if progress.others:
        print(f"{progress.path} also holds {progress.others} sections of other code or machines; they are left alone")
    started = time.perf_counter()
    wrong = _correctness(run)
    if wrong:
        print("WRONG NUMBERS, nothing is timed:", *wrong, sep="\n  ")
        return WRONG
    left = _measure(run, wish.out, started)
    print(f"measured in {time.perf_counter() - started:.0f} s")
    _write(run, wish, left)
    return LEFT if left else DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", choices=KERNELS, help="one kernel's goals")
    parser.add_argument(
        "--goal", nargs="+", default=[], metavar="NAME", help="only these goals: A4, or C3 for all of C3"
    )
    parser.add_argument("--shape", nargs="+", default=[], metavar="TEXT", help="only shapes that say this: D64, docs")
    parser.add_argument(
        "--part", nargs="+", choices=("goals", "choices", "tune"), help="goals (the rule), choices of dispatch, tuning"
    )
    parser.add_argument("--minutes", type=float, help="begin no section later than this; exit code 3 if any is left")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier commands have saved in --out")
    parser.add_argument("--list", action="store_true", help="print the sections and what is done of them; run nothing")
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


def _sections(record: Record, wish: argparse.Namespace) -> list[Section]:
    """What the command is about, in the order in which it is measured.

    Raises ``ValueError`` for a goal that does not exist, and where no section is left.
    """
    from kernels.bench import attention, choices, correctness, cross_entropy, end_to_end, tune
    from kernels.bench.sections import Choice

    parts: set[Part] = {"tune"} if wish.tune else set(wish.part or ["goals"])
    if wish.write_choices:
        parts.add("choices")
    kernels = [wish.tune or wish.only] if wish.tune or wish.only else []
    every = [
        *correctness.sections(record),
        *(section for module in (attention, cross_entropy, end_to_end) for section in module.sections(record)),
        *choices.sections(record),
        *tune.sections(record),
    ]
    chosen = Choice(kernels, wish.goal, wish.shape).of(every)
    found = [section for section in chosen if section.part in parts]
    if not found:
        raise ValueError(
            "no section has all of: "
            + ", ".join(
                f"--{name} {' '.join(getattr(wish, name))}" for name in ("goal", "shape") if getattr(wish, name)
            )
            + ". --list prints the sections of a command"
        )
    timed = {section.kernel for section in found}
    return [section for section in chosen if section.part == "correctness" and section.kernel in timed] + found


def _listed(run: Run) -> list[str]:
    return [f"{run.progress.state(section):<11} {section.name}" for section in run.sections]


def _correctness(run: Run) -> list[str]:
    """One sentence for each check that does not hold."""
    from kernels.bench.sections import attempt

    wrong: list[str] = []
    for section in run.sections:
        if section.part != "correctness":
            continue
        if section.name in run.progress.done:
            run.record.restore(run.progress.done[section.name])
            continue
        found = attempt(run.record, section)
        wrong += [f"{section.what}: stopped with an error"] if found is None else found.result
        if found is not None and not found.result:
            run.progress.add(section, found)
    return wrong


def _measure(run: Run, folder: Path, started: float) -> list[Section]:
    """Measures what is not done yet, each section saved at once; returns those that are left for the next command."""
    from kernels.bench.sections import attempt
    from kernels.bench.timing import DeviceLostError

    waiting = [section for section in run.sections if section.part != "correctness"]
    for section in waiting:
        if section.name in run.progress.done:
            run.record.restore(run.progress.done[section.name])
    # What took a process down, or broke, comes last: it must not keep the others.
    waiting = sorted(
        (section for section in waiting if section.name not in run.progress.done),
        key=lambda section: section.name in run.progress.started,
    )
    for number, section in enumerate(waiting):
        if run.minutes is not None and time.perf_counter() - started > 60 * run.minutes:
            print(f"{run.minutes:g} minutes are over")
            return waiting[number:]
        run.progress.start(section)
        try:
            found = attempt(run.record, section)
        except DeviceLostError as error:
            print(f"the device answers no more, and no other section can run in this process: {error}")
            return waiting[number:]
        if found is not None:
            run.progress.add(section, found)
            run.record.append_csv(folder / "results.csv", found.measurements)
    return []


def _write(run: Run, wish: argparse.Namespace, left: Sequence[Section]) -> None:
    from kernels.bench import choices, pictures, tune
    from kernels.bench.record import describe
    from kernels.bench.report import markdown_table, summary, text_table

    record, folder = run.record, wish.out
    names = ["results.csv"]
    if any(section.part == "goals" for section in run.sections):
        chosen = any((wish.only, wish.goal, wish.shape))
        record.complete("not yet run" if left else "not chosen" if chosen else "no shape of this run has it")
        print(f"\n{text_table(record.rows)}\n\n{summary(record.rows)}")
        note = "Rehearsal: no goal." if record.rehearsal else ""
        (folder / "goals.md").write_text(markdown_table(record.rows, describe(record.device), note))
        names += ["goals.md", *pictures.write(record, folder)]
    results = [(section, run.progress.result(section)) for section in run.sections]
    if wish.write_choices:
        fastest = [result for section, result in results if section.part == "choices" and result]
        choices.write(record, choices.table(fastest), wish.write_choices)
        names.append(str(wish.write_choices))
    tuned = [(section.kernel, result) for section, result in results if section.part == "tune" and result]
    for kernel in dict.fromkeys(kernel for kernel, _ in tuned):
        print(tune.write([result for of, result in tuned if of == kernel], kernel, folder))
    print(f"written to {folder}: {', '.join(names)}")
    if left:
        print(f"{len(left)} sections are left, {left[0].what} first: type the same command again to go on")


if __name__ == "__main__":
    sys.exit(main())
