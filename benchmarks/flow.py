"""How long the command line takes: help, the whole line, and the line again. ``python -m benchmarks.flow``.

Goals on two cores, after installation: help within half a second; the default pipeline within 5 minutes (3 before
delegation joins); the same again, with nothing changed, within 30 seconds.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

GOALS = (
    ("--help", ["--help"], 0.5),
    ("pipeline, first run", ["pipeline"], 180.0),
    ("pipeline, nothing changed", ["pipeline"], 30.0),
)


def main() -> None:
    """Run the commands in an empty workspace and print their times beside their goals."""
    table = Table(title=f"lacewing on {os.cpu_count()} cores")
    for column in ("command", "seconds", "goal", "met"):
        table.add_column(column, justify="left" if column == "command" else "right")
    lacewing = str(Path(sys.executable).with_name("lacewing"))
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "LACEWING_WORKSPACE": str(Path(folder) / "workspace")}
        for name, arguments, goal in GOALS:
            started = time.monotonic()
            subprocess.run([lacewing, *arguments], env=environment, check=True)
            seconds = time.monotonic() - started
            table.add_row(name, f"{seconds:.2f}", f"{goal:g}", "yes" if seconds <= goal else "NO")
    Console().print(table)


if __name__ == "__main__":
    main()
