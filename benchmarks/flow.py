"""How long the command line takes: help, the whole pipeline, and the pipeline again. ``python -m benchmarks.flow``.

Goals on two cores, after installation: help within half a second, the default pipeline within five minutes, and the
same pipeline with nothing changed within 15 seconds. With ``--record``, the closing table of the first run also goes to
``docs/results.md`` and, without its longest rows, to the README.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.results import PAGE, ROOT, Result, add_record_option, machine, origin, record, replace_section

COMMAND = "python -m benchmarks.flow"
FIRST_RUN = "lacewing pipeline, first run"
GOALS = (
    ("lacewing --help", ["--help"], 0.5),
    (FIRST_RUN, ["pipeline"], 300.0),
    ("lacewing pipeline, nothing changed", ["pipeline"], 15.0),
)
# What a stranger cannot use, such as identities and places of a machine of ours, or needs last: the README is short.
ONLY_IN_FULL = (
    "data version",
    "delegation: tokens trained on",
    "helper",
    "registry",
    "gate",
    "stages",
    "config digest",
    "where to look",
    "files",
)
README_COLUMNS = 110


def main() -> None:
    """Run the commands in an empty workspace and print their times beside their goals."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    add_record_option(parser)
    options = parser.parse_args()
    table = Table(title=f"lacewing on {machine()}")
    for column in ("command", "seconds", "goal", "met"):
        table.add_column(column, justify="left" if column == "command" else "right")
    lacewing = str(Path(sys.executable).with_name("lacewing"))
    results, outputs = [], {}
    with tempfile.TemporaryDirectory() as folder:
        # Wide enough for every value of the closing table to stay on its line.
        environment = {**os.environ, "LACEWING_WORKSPACE": str(Path(folder) / "workspace"), "COLUMNS": "240"}
        for name, arguments, goal in GOALS:
            started = time.monotonic()
            done = subprocess.run(
                [lacewing, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            seconds = time.monotonic() - started
            outputs[name] = done.stdout.replace(folder + os.sep, "")
            print(outputs[name])
            table.add_row(name, f"{seconds:.2f}", f"{goal:g}", "yes" if seconds <= goal else "NO")
            results.append(Result(name, f"{seconds:.{0 if seconds > 10 else 2}f} s", f"<= {goal:g} s"))
    Console().print(table)
    if options.record:
        rows = list(closing_rows(outputs[FIRST_RUN]))
        record("flow", results, COMMAND)
        replace_section(PAGE, "pipeline output", f"{origin(COMMAND)}, {machine()}\n\n{as_text(rows)}")
        replace_section(ROOT / "README.md", "pipeline output", as_text(shortened(rows), README_COLUMNS))


def closing_rows(output: str) -> Iterable[tuple[str, str]]:
    """Names and values of the table with which a flow ends, without its frame."""
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        if len(cells) == 4:  # an empty one before the frame, and one after it
            yield cells[1], cells[2]


def shortened(rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The rows that say what the model can do."""
    return [(name, value) for name, value in rows if name not in ONLY_IN_FULL]


def as_text(rows: Iterable[tuple[str, str]], columns: int | None = None) -> str:
    """A fenced block with aligned columns; a line that is longer than ``columns`` ends in an ellipsis."""
    rows = list(rows)
    width = 2 + max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}{value}" for name, value in rows]
    if columns is not None:
        lines = [line if len(line) <= columns else line[: columns - 2] + " …" for line in lines]
    return "\n".join(["```", *lines, "```"])


if __name__ == "__main__":
    main()
