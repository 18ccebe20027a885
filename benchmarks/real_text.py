"""Does asking help on real text? ``python -m benchmarks.real_text [--record]``; needs ``../shared/data``.

A small model learns from a third of the biographies in ``../shared/data``. The library of its helper holds all of them,
so most articles are known to the helper alone. Measured are the helper where the model calls in held-out biographies,
with their own article in the library and without it, and the years of birth of people whose article the model never
saw: by the model alone, and as a cascade. The run is the flow ``lacewing delegate``, kept in ``--workspace``: what has
not changed does not run again.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, Result, add_record_option, record
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.evaluation.factuality.real_text import ProbeAnswer
from components.evaluation.factuality.records import json_lines
from components.evaluation.factuality.results import CascadeResults, FactCalls
from components.evaluation.results import Interval

SHARED_DATA = ROOT.parent / "shared/data"
THIRDS = 3


def main() -> None:
    """Train, measure, and print one line for each result and its goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="settings of the flow, for example model=10m")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the shared data")
    parser.add_argument("--workspace", type=Path, default=ROOT / "build/real-text", help="where the run is kept")
    parser.add_argument("--probes", type=int, default=3000, help="at most this many years of birth are asked for")
    parser.add_argument("--steps", type=int, default=1200, help="of pretraining")
    parser.add_argument("--show", type=int, default=20, help="print this many wrong answers")
    add_record_option(parser)
    arguments = parser.parse_args()
    arguments.workspace.mkdir(parents=True, exist_ok=True)
    articles, probes = written(arguments.data, arguments.workspace)
    run(arguments, articles, probes)
    assessment = newest(arguments.workspace)
    results = list(measured(assessment.results()))
    for each in results:
        print(f"{each.what:76} {each.measured:24} {each.goal:8} {each.remark}")
    for line in wrong_answers(assessment, arguments.show):
        print(line)
    if arguments.record:
        # Folders of this machine say nothing about the result.
        settings = " ".join([f"--steps {arguments.steps}", *arguments.overrides])
        record("real text", results, f"python -m benchmarks.real_text {settings}")


def written(data: Path, workspace: Path) -> tuple[Path, Path]:
    """The articles that the model learns from, and the probes about people that are not among them."""
    articles, probes = workspace / "articles.jsonl.gz", workspace / "probes.jsonl"
    rows = read(data / "pretrain/enwiki_bios/train.jsonl.gz")
    seen = [row for row in rows if _number(row["id"]) % THIRDS == 0]
    write(articles, seen)
    known = {row["id"] for row in seen}
    asked = read(data / "eval/bio_probes/birth_year_train_entities.jsonl.gz")
    write(probes, (row for row in asked if row["article"] not in known))
    return articles, probes


def run(arguments: argparse.Namespace, articles: Path, probes: Path) -> None:
    """The flow ``delegate`` on these files."""
    library = sorted((arguments.data / "pretrain/enwiki_bios").glob("*.jsonl.gz"))
    settings = [
        "experiment=text",
        f"data.sources=[{articles}]",
        f"label.pipeline={arguments.data / 'spacy/en_gum_sm'}",
        "label.agreement_documents=20",
        f"trainer.max_steps={arguments.steps}",
        f"delegation.max_steps={arguments.steps // 4}",
        f"cascade.helper.library=[{','.join(map(str, library))}]",
        f"facts.probes.files=[{probes}]",
        f"facts.probes.per_file={arguments.probes}",
        *arguments.overrides,
    ]
    environment = {**os.environ, "LACEWING_WORKSPACE": str(arguments.workspace / "workspace"), "COLUMNS": "200"}
    subprocess.run([sys.executable, "-m", "flows.cli", "delegate", *settings], env=environment, check=True, cwd=ROOT)


def newest(workspace: Path) -> CascadeAssessment:
    """The assessment that the flow has just made, or found to be made."""
    records = (workspace / "workspace/artifacts/cascade").glob("*/artifact.json")
    return CascadeAssessment.open(max(records, key=lambda path: path.stat().st_mtime).parent)


def measured(results: CascadeResults) -> Iterator[Result]:
    """The figures that issue 11 asks for, and those that explain them."""
    asked, (probes,) = results.helper_accuracy, results.model.probes
    for where, facts in (("", asked.facts), (", own article hidden", asked.facts_without_document)):
        yield from _at_facts(facts, where)
    at_budget = results.model.at_budget
    wasted = f"{at_budget.wasted:.1%}"
    yield Result("calls on held-out biographies that fall on no fact", wasted, "", f"budget {results.budget:.0%}")
    score = probes.parts["all"]
    people = f"{score.probes:,} people whose article the model never saw"
    yield Result("year of birth right, small model alone", _interval(score.alone), "< 10 %", people)
    yield Result("year of birth right, cascade", _interval(score.cascade), ">= 80 %", people)
    yield Result("asks at the year", f"{probes.asked:.1%}", "", f"calls are {probes.calls:.0%} of the decisions")
    if results.plain is not None:
        plain = _interval(results.plain.probes[0].parts["all"].cascade)
        yield Result("year of birth right, plain model that asks where it doubts", plain, "", people)


def _at_facts(facts: FactCalls | None, where: str) -> Iterator[Result]:
    if facts is None:
        return
    calls, known = f"{facts.calls} calls, gold text before them", not where
    yield Result(f"helper right where called at a fact{where}", f"{facts.right:.1%}", ">= 50 %" if known else "", calls)
    yield Result(f"helper answers there{where}", f"{facts.answered:.1%}", ">= 70 %" if known else "", calls)


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def wrong_answers(assessment: CascadeAssessment, count: int) -> Iterator[str]:
    """What the cascade answered where it was wrong, for the eye."""
    lines = assessment.path(assessment.PROBE_ANSWERS).read_text().split("\n")
    answers = (ProbeAnswer.model_validate_json(line) for line in lines if line)
    wrong = [answer for answer in answers if not answer.cascade_right]
    for answer in wrong[:: max(1, len(wrong) // max(1, count))][:count]:
        asked = "asked" if answer.asked else "did not ask"
        yield f"{answer.prompt} [{'/'.join(answer.accepted)}], {asked}: {answer.cascade!r}; alone: {answer.alone!r}"


def read(path: Path) -> Iterator[dict[str, Any]]:
    return (row for _, row in json_lines(path, "the benchmark"))


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """As JSONL, the same bytes for the same rows."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def _number(article: str) -> int:
    return int(article.rpartition("-")[2])


if __name__ == "__main__":
    main()
