"""How much of the tasks stands in the shared Wikipedia text: ``python -m benchmarks.contamination``.

The figures of a shared run of 13 words are known: BoolQ 69 of 3,270, MMLU 4, TriviaQA 1. They hold for the whole text
of an example, choices and all accepted answers included. The one of TriviaQA reaches over two of its accepted answers,
so it is chance. Times are processor times of one core, and include reading the files.
"""

import argparse
import gzip
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.results import Result, add_record_option, given_command, record
from components.evaluation.contamination.config import ContaminationConfig
from components.evaluation.contamination.examples import Contamination, Example, compared

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared/data"
TRAINING = ("enwiki_bios/train", "enwiki_general/train")
TASKS = {"BoolQ": "boolq/validation", "MMLU": "mmlu/test", "TriviaQA": "triviaqa/sm_sub"}
KNOWN = {"BoolQ": 69, "MMLU": 4, "TriviaQA": 1}
GOAL_SECONDS = 120


def main() -> None:
    """Compare the tasks with the text, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder that holds pretrain and eval")
    add_record_option(parser)
    arguments = parser.parse_args()
    began = time.process_time()
    tasks = {task: list(examples(arguments.data / f"eval/{name}.jsonl.gz")) for task, name in TASKS.items()}
    found = compared(texts(arguments.data / "pretrain"), tasks, ContaminationConfig())
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results = [measured(task, each) for task, each in found.items()]
    results.append(
        Result("all three tasks, one core", f"{seconds:.1f} s", f"at most {GOAL_SECONDS} s", f"{peak:.0f} MB")
    )
    for result in results:
        print(f"{result.what:40} {result.measured:>12}   {result.goal:>16}   {result.remark}")
    if arguments.record:
        record("contamination", results, given_command("benchmarks.contamination"))


def measured(task: str, found: list[Contamination]) -> Result:
    """How many examples share a run, and how many have a near-duplicate paragraph."""
    runs = sum(each.run_document is not None for each in found)
    similar = sum(each.similar_document is not None for each in found)
    remark = f"{similar} with a near-duplicate paragraph"
    return Result(f"{task}: share 13 words with Wikipedia", f"{runs} of {len(found):,}", str(KNOWN[task]), remark)


def texts(folder: Path) -> Iterator[str]:
    """The training articles."""
    for name in TRAINING:
        yield from (row["text"] for row in rows(folder / f"{name}.jsonl.gz"))


def examples(path: Path) -> Iterator[Example]:
    """Id and whole text of each example: prompt, choices and accepted answers."""
    for number, row in enumerate(rows(path)):
        prompt = row.get("question") or row.get("query") or row["context"]
        yield str(number), "\n".join([prompt, *row.get("choices", []), *row.get("aliases", [])])


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    main()
