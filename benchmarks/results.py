"""The sections of ``docs/results.md`` that benchmarks write. ``make bench``, or any benchmark with ``--record``.

A benchmark turns what it measured into rows and records them under its own name. They replace what stood between the
two markers of that section, together with the command, the date, the commit and, beside each number, the CPU. A ratio
that was measured on one CPU says little about another.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
# What decides the speed of training, the fastest first; by the flags of Linux.
FEATURES = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX512", "avx2": "AVX2"}


@dataclass(frozen=True)
class Result:
    """One measurement and, where there is one, its goal."""

    what: str
    measured: str
    goal: str = ""
    remark: str = ""


def add_record_option(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark the option ``--record``."""
    parser.add_argument("--record", action="store_true", help="write the results to docs/results.md")


def record(section: str, results: Sequence[Result], command: str) -> None:
    """Replace the table of ``section`` in ``docs/results.md``."""
    replace_section(PAGE, section, f"{origin(command)}\n\n{markdown_table(results, machine())}")


def replace_section(page: Path, section: str, content: str) -> None:
    """Replace what stands between the markers ``<!-- begin SECTION -->`` and ``<!-- end SECTION -->`` of ``page``."""
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"{page.name} has no section {section!r}: add a line '{begin}' and, below it, '{end}'")
    page.write_text(f"{before}{begin}\n{content.strip()}\n{end}{after}", encoding="utf-8")
    print(f"recorded in {page.relative_to(ROOT) if page.is_relative_to(ROOT) else page}: {section}", file=sys.stderr)


def markdown_table(results: Sequence[Result], cpu: str) -> str:
    """The results as a Markdown table, the CPU beside each."""
    rows = [
        ("what", "measured", "goal", "remark", "CPU"),
        ("---",) * 5,
        *((result.what, result.measured, result.goal, result.remark, cpu) for result in results),
    ]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def origin(command: str) -> str:
    """Command, date and commit in one line."""
    return f"`{command}`, {date.today().isoformat()}, commit {commit()}"


def given_command(module: str, part: str = "", parts: Collection[str] = ()) -> str:
    """The command that is running, without ``--record`` and with paths relative to the repository.

    For a benchmark that records each of its ``parts`` by itself, the command that measures this ``part`` alone.
    """
    words = [word for word in sys.argv[1:] if word != "--record" and word not in parts]
    return " ".join(filter(None, ["python -m", module, part, *(_relative(word) for word in words)]))


def _relative(word: str) -> str:
    return os.path.relpath(word, ROOT) if word.startswith("/") else word


def machine() -> str:
    """CPU model, the best matrix instructions that it has, and the number of cores."""
    try:
        cpu = Path("/proc/cpuinfo").read_text()
    except FileNotFoundError:  # not Linux
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return describe_cpu(cpu, os.cpu_count() or 1)


def describe_cpu(cpuinfo: str, cores: int) -> str:
    """The same from the text of ``/proc/cpuinfo``."""
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", cpuinfo, flags=re.MULTILINE))
    flags = set(fields.get("flags", "").split())
    best = next((name for flag, name in FEATURES.items() if flag in flags), None)
    model = re.sub(r"\((R|TM)\)| CPU| Processor", "", fields.get("model name", platform.machine())).strip()
    return ", ".join(filter(None, [model, best, f"{cores} cores"]))


def commit() -> str:
    """Short name of the commit, and whether the code differs from it."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return f"{name} with changes" if _git("status", "--porcelain", "--", ".", ":!docs", ":!README.md") else name
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
