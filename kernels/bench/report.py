"""The table of goals, as text for the terminal and as Markdown for the repository."""

from collections.abc import Sequence

from kernels.bench.record import Row

HEADINGS = ["goal", "shape", "ours", "baseline", "measured", "expected", "must", "stretch", "verdict"]


def text_table(rows: Sequence[Row]) -> str:
    """Aligned columns, one line a row."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def summary(rows: Sequence[Row]) -> str:
    """How many goals hold at every shape, how many do not, how many say nothing."""
    verdicts: dict[str, list[str]] = {}
    for row in rows:
        verdicts.setdefault(row.goal.name, []).append(row.verdict)
    failed = [name for name, found in verdicts.items() if "FAIL" in found]
    passed = [
        name for name, found in verdicts.items() if name not in failed and any(v.startswith("pass") for v in found)
    ]
    silent = len(verdicts) - len(failed) - len(passed)
    missed = f" ({', '.join(failed)})" if failed else ""
    return f"{len(passed)} goals hold, {len(failed)} do not{missed}, {silent} say nothing (not run, or a rehearsal)."


def markdown_table(rows: Sequence[Row], machine: dict[str, str], note: str = "") -> str:
    """The same table for a file to check in, with the machine it was measured on."""
    where = ", ".join(f"{key} {value}" for key, value in machine.items())
    lines = [
        f"# Kernels: goals and results\n\n{where}.\n{note}\n",
        _line(HEADINGS),
        _line(["---"] * len(HEADINGS)),
    ]
    return "\n".join([*lines, *(_line(row.cells()) for row in rows), "", summary(rows), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
