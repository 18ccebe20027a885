"""Does a calculator make results right? ``python -m benchmarks.gsm8k --train FILE --test FILE [--record]``.

A small model learns GSM8K's training text and to ask at the results of its calculations; the calculator answers. On
the test file, each model writes the result of every calculation of the given solutions, alone and with calls at no more
than the budget; beside it stands the plain model that it was trained from, which calls where it doubts. First, every
calculation of the training file is put to the calculator. The run is the flow ``lacewing delegate`` for each seed, kept
in ``--workspace``: what has not changed does not run again.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.results import ROOT, Result, add_record_option, given_command, record
from components.arithmetic.calculations import calculations, rest_of_result
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.evaluation.factuality.real_text import CalculationResults, WrittenCalculations
from components.evaluation.factuality.records import json_lines

GOALS = {"right": ">= 95 %", "over alone": ">= 30 points", "over entropy": ">= 10 points", "wasted": "<= 10 %"}


def main() -> None:
    """Count, train, measure, and print one line for each result and its goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="settings of the flow, for example trainer.max_steps=600")
    parser.add_argument("--train", type=Path, required=True, help="GSM8K's training file")
    parser.add_argument("--test", type=Path, required=True, help="GSM8K's test file")
    parser.add_argument("--seeds", type=int, default=3, help="this many models are trained")
    parser.add_argument("--workspace", type=Path, default=ROOT / "build/gsm8k", help="where the runs are kept")
    add_record_option(parser)
    arguments = parser.parse_args()
    results = [counted(arguments.train)]
    seeds = [assessed(arguments, seed) for seed in range(arguments.seeds)]
    results += measured([each.results().model.calculations for each in seeds],
                        [plain.calculations for each in seeds if (plain := each.results().plain)])  # fmt: skip
    for each in results:
        print(f"{each.what:72} {each.measured:24} {each.goal:12} {each.remark}")
    if arguments.record:
        record("gsm8k", results, given_command("benchmarks.gsm8k"))


def counted(train: Path) -> Result:
    """How many calculations of the training text the calculator gets right."""
    texts = [str(row["answer"]) for _, row in json_lines(train, "--train")]
    found = [(text, each) for text in texts for each in calculations(text)]
    right = sum(each.right and rest_of_result(text[: each.start]) is not None for text, each in found)
    return Result(
        "calculations of the training text that the calculator gets right", f"{right:,} of {len(found):,}", "all"
    )


def assessed(arguments: argparse.Namespace, seed: int) -> CascadeAssessment:
    """The flow ``delegate`` for one seed, and its assessment of the cascade."""
    workspace = arguments.workspace / f"seed-{seed}"
    workspace.mkdir(parents=True, exist_ok=True)
    settings = [
        "experiment=gsm8k",
        f"data.sources=[{arguments.train.resolve()}]",
        f"facts.calculations.file={arguments.test.resolve()}",
        f"trainer.seed={seed}",
        *arguments.overrides,
    ]
    environment = {**os.environ, "LACEWING_WORKSPACE": str(workspace.resolve()), "COLUMNS": "200"}
    subprocess.run([sys.executable, "-m", "flows.cli", "delegate", *settings], env=environment, check=True, cwd=ROOT)
    records = (workspace / "artifacts/cascade").glob("*/artifact.json")
    return CascadeAssessment.open(max(records, key=lambda path: path.stat().st_mtime).parent)


def measured(
    taught: Sequence[CalculationResults | None], plain: Sequence[CalculationResults | None]
) -> Iterator[Result]:
    """The figures that issue 12 asks for, each over the seeds, and those that explain them."""
    asking, doubting = [each for each in taught if each], [each for each in plain if each]
    some = asking[0]
    spans = f"{some.calculations:,} calculations of {some.problems:,} solutions, {len(asking)} seeds"
    right = [each.cascade.estimate for each in asking]
    yield Result("results right, cascade", shares(right), GOALS["right"], spans)
    yield Result("results right, the same model alone", shares([each.alone.estimate for each in asking]))
    yield Result("results right, plain model alone", shares([each.alone.estimate for each in doubting]))
    entropy = [each.cascade.estimate for each in doubting]
    yield Result("results right, plain model that asks where it doubts", shares(entropy), "", calls(doubting))
    better = min(one.cascade.estimate - max(one.alone.estimate, other.alone.estimate)
                 for one, other in zip(asking, doubting, strict=True))  # fmt: skip
    yield Result("cascade over the better of both alone, worst seed", points(better), GOALS["over alone"])
    over = min(one - other for one, other in zip(right, entropy, strict=True))
    yield Result("cascade over asking where the plain model doubts, worst seed", points(over), GOALS["over entropy"])
    yield Result("calls wasted", shares([each.wasted for each in asking]), GOALS["wasted"], calls(asking))
    written = [each.written_cascade for each in asking if each.written_cascade]
    yield from own("with calls", written)
    yield from own("alone", [each.written_alone for each in asking if each.written_alone])


def own(way: str, written: Sequence[WrittenCalculations]) -> Iterator[Result]:
    """Of the solutions that the models write themselves."""
    judged = [each for each in written if each.right is not None]
    if not judged:
        return
    remark = (
        f"{sum(each.calculations for each in judged):,} calculations in {sum(each.problems for each in judged)} texts"
    )
    right = shares([each.right.estimate for each in judged if each.right is not None])
    yield Result(f"results right in own solutions, {way}", right, "", remark)
    yield Result(f"problems solved, {way}", shares([each.solved for each in judged]))


def shares(values: Sequence[float]) -> str:
    """The mean, and the lowest and highest of several."""
    mean = f"{sum(values) / len(values):.1%}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1%} to {max(values):.1%})"


def points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def calls(results: Sequence[CalculationResults]) -> str:
    return f"{shares([each.calls for each in results])} of the tokens call, {results[0].budget:.0%} may"


if __name__ == "__main__":
    main()
