"""The tables of the README and of ``docs/results.md`` from a finished ``lacewing study``.

``python -m benchmarks.study [FOLDER]`` prints them, ``--record`` writes them. Without a folder it takes the newest
study of the workspace. The picture ``docs/images/study.png`` is copied from the same artifact.
"""

import argparse
import json
import math
import shutil
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.results import PAGE, ROOT, add_record_option, commit, replace_section
from components.evaluation.factuality import artifacts
from flows.workspace import workspace_folder

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "study.png"
METHODS = {
    "ntp": "nothing (`ntp`); it calls where it doubts",
    "lacy": "**facts with the highest loss (`lacy`, the default)**",
    "loss": "the highest loss of all tokens (`loss`)",
    "random": "random tokens (`random`)",
    "fact": "random facts (`fact`)",
    "judge": "values that a judge marked (`judge`)",
    "helper_gain": "where the helper is better (`helper_gain`)",
    "defer": "learning to defer (`defer`)",
}
# Names of the columns here, and in the study.
SHORT = {
    "facts right, no calls": "alone",
    "with 15 % calls": "at budget",
    "wasted calls": "calls on non-facts",
    "written facts true": "written facts true, cascade",
}
FULL = {
    "facts right, no calls": "alone",
    "15 % calls": "at budget",
    "of the possible gain": "gain of bound",
    "calls wasted on non-facts": "calls on non-facts",
    "written facts true, with helper": "written facts true, cascade",
    "alone": "written facts true, alone",
    "leakage": "leakage",
    "bits/byte, other tokens": "bits/byte non-facts",
}
SHORT_METHODS = ("ntp", "lacy", "loss", "random", "judge")
Study = dict[str, dict[str, dict[str, Any]]]


def main() -> None:
    """Print both tables, and write them if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="artifact of lacewing study; default: the newest")
    add_record_option(parser)
    options = parser.parse_args()
    artifact = artifacts.Study.open(options.folder or newest())
    study: Study = json.loads(artifact.path(artifact.SUMMARY).read_text(encoding="utf-8"))
    seeds = len(artifact.details["seeds"])
    full, short = table(study, FULL, tuple(METHODS)), table(study, SHORT, SHORT_METHODS, tight=True)
    print(full, short, sep="\n\n")
    if options.record:
        where = f"`lacewing study`, {seeds} seeds, {date.today().isoformat()}, commit {commit()}"
        replace_section(PAGE, "study", f"{where}\n\n{full}")
        replace_section(README, "study", short)
        shutil.copyfile(artifact.path(artifact.CURVE_PNG), PICTURE)


def newest() -> Path:
    """The study of the workspace that was finished last."""
    records = list((workspace_folder() / "artifacts" / "study").glob("*/artifact.json"))
    if not records:
        raise SystemExit("the workspace holds no study: run `lacewing study` first")
    return max(records, key=lambda path: path.stat().st_mtime).parent


def table(study: Study, columns: dict[str, str], methods: tuple[str, ...], tight: bool = False) -> str:
    """One row for each method that was compared, means ± half of the interval over seeds."""
    rows = [["learns to ask for", *columns], ["---"] * (1 + len(columns))]
    for name in methods:
        if name in study:
            rows.append([METHODS[name], *(_cell(column, study[name][column]) for column in columns.values())])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return table.replace(" ± ", "±") if tight else table


def _cell(column: str, interval: dict[str, float]) -> str:
    mean, half = interval["estimate"], interval["high"] - interval["estimate"]
    if math.isnan(mean):
        return "–"
    scale, digits = (1, 3) if column == "bits/byte non-facts" else (100, 0 if column == "gain of bound" else 1)
    spread = "" if math.isnan(half) else f" ± {scale * half:.{digits}f}"
    return f"{scale * mean:.{digits}f}{spread}"


if __name__ == "__main__":
    main()
