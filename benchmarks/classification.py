"""Does finetuning tell labels better than TF-IDF? ``python -m benchmarks.classification``; needs ``../shared/data``.

Two tasks: spam among SMS messages, and 77 kinds of questions to a bank with 20 texts of each. The base learns from the
training texts of both, without their labels, and from a sample of C4. Each seed chooses the texts, those that are held
out for validation, and the order of training. Test texts that nearly repeat a training text are left out; the figure
for the whole test stands beside it. The goals are what TF-IDF comes to on the whole test.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from benchmarks.results import ROOT, Result, add_record_option, record
from components import pretrain
from components.core.artifact import RECORD, Artifact
from components.core.run import Run
from components.data import prepare
from components.data.prepared import PreparedData
from components.finetune.classify import measure, texts, train
from components.finetune.classify.artifacts import Classification, Classifier, LabelledTexts
from components.finetune.classify.config import ClassifyStageConfig
from components.finetune.classify.predict import TextClassifier
from components.finetune.classify.reading import read_texts
from components.finetune.classify.results import FINETUNED, NETWORK, NGRAMS, TFIDF
from components.training.config import PretrainConfig
from components.training.trained import TrainedModel
from conf.compose import compose_project
from conf.schema import ProjectConfig

SHARED_DATA = ROOT.parent / "shared/data"
BASE = (
    "data.vocab_size=4096 model.name=classify model.layers=2 model.width=128 model.hidden_width=384 model.heads=4 "
    "model.kv_heads=1 model.context_length=64 trainer.max_steps=1600 trainer.batch_size=32 trainer.micro_batch_size=32 "
    "trainer.threads=1 trainer.validate_every_steps=200"
)
SIGNS = {">": gt, ">=": ge}
WHOLE = "finetuned model, whole test"

Labels = Sequence[Sequence[str]]
Kind = TypeVar("Kind", bound=Artifact)


def accuracy(true: Labels, said: Labels) -> float:
    """Share of the texts whose label is right."""
    return mean(one == other for one, other in zip(true, said, strict=True))


def f1_of_spam(true: Labels, said: Labels) -> float:
    """2 tp / (2 tp + fp + fn) of the label ``spam``."""
    pairs = [("spam" in one, "spam" in other) for one, other in zip(true, said, strict=True)]
    return 2 * pairs.count((True, True)) / sum(one + other for one, other in pairs)


@dataclass(frozen=True)
class Task:
    """Labelled texts, and what has to be reached on them."""

    name: str
    train: str
    test: str
    settings: tuple[str, ...]
    measured: Callable[[Labels, Labels], float]
    measure: str
    sign: str
    goal: float
    """What TF-IDF comes to on the whole test."""

    def overrides(self, data: Path, seed: int) -> list[str]:
        """Settings of this task and seed."""
        return [
            f"finetune.classify.data.train=[{data / self.train}]",
            f"finetune.classify.data.test=[{data / self.test}]",
            f"finetune.classify.data.seed={seed}",
            f"finetune.training.seed={seed}",
            "finetune.training.threads=1",
            "finetune.classify.report.prompted_texts=0",
            "finetune.classify.data.validation_fraction=0.05",
            *self.settings,
        ]


FOLDER = "classification"
TASKS = (
    Task("spam", f"{FOLDER}/sms_spam/train.jsonl", f"{FOLDER}/sms_spam/test.jsonl", (), f1_of_spam, "F1 of spam",
         ">=", 0.946),
    Task("banking77", f"{FOLDER}/banking77/train.jsonl.gz", f"{FOLDER}/banking77/test.jsonl",
         ("finetune.classify.data.per_class=20",), accuracy, "right", ">", 0.773),
)  # fmt: skip


def main() -> None:
    """Train the base and the classifiers, and print one line for each result and its goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="settings, for example finetune.classify.head.ngrams.weight=0")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the shared data")
    parser.add_argument("--tasks", nargs="+", default=[task.name for task in TASKS], help="those to measure")
    parser.add_argument("--seeds", type=int, default=3, help="this many classifiers of each task")
    parser.add_argument(
        "--workspace", type=Path, help="keep what is made there, and do not make again what it holds already"
    )
    add_record_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given.workspace or Path(folder), given.data.resolve(), given.overrides)
        results = [each for task in TASKS if task.name in given.tasks for each in bench.results(task, given.seeds)]
    for each in results:
        print(f"{each.what:56} {each.measured:26} {each.goal:10} {each.remark}")
    if given.record:
        # Folders of this machine say nothing about the result.
        seeds = [] if given.seeds == 3 else [f"--seeds {given.seeds}"]
        record("classification", results, " ".join(["python -m benchmarks.classification", *seeds, *given.overrides]))


@dataclass(frozen=True)
class Bench:
    """Where the artifacts are, and how they are made."""

    folder: Path
    data: Path
    overrides: Sequence[str]

    def results(self, task: Task, seeds: int) -> Iterator[Result]:
        """Every contender over the seeds."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for seed in range(seeds):
            packed, measures = self.measured(task, seed)
            print(f"{task.name}, seed {seed}: {measures}", file=sys.stderr, flush=True)
            for name, value in measures.items():
                found[name].append(value)
        own = found[FINETUNED]
        counts = packed.metrics
        yield Result(
            f"{task.name}, {task.measure}: finetuned model", shares(own), f"{task.sign} {task.goal:.1%}",
            f"{'reached' if SIGNS[task.sign](mean(own), task.goal) else 'MISSED'}; {counts['test_texts']:,.0f} texts, "
            f"without {counts['near_duplicates']:,.0f} that nearly repeat a training text",
        )  # fmt: skip
        for name in (NETWORK, NGRAMS, TFIDF):
            if name in found:
                yield Result(f"{task.name}, {task.measure}: {name}", shares(found[name]))
        yield Result(f"{task.name}, {task.measure}: {WHOLE}", shares(found[WHOLE]))
        gains = [100 * (one - other) for one, other in zip(own, found[TFIDF], strict=True)]
        yield Result(
            f"{task.name}: over TF-IDF on the same texts", f"{mean(gains):+.1f} points", "> 0",
            " ".join(f"{gain:+.1f}" for gain in gains),
        )  # fmt: skip

    def measured(self, task: Task, seed: int) -> tuple[LabelledTexts, Mapping[str, float]]:
        """The labelled texts of a seed, and what each contender comes to on them."""
        settings = self.settings(task.overrides(self.data, seed))
        prepared, base = self.base(settings)
        classify = settings.finetune.classify
        place = f"{task.name}-{seed}"
        packed = self.made(
            f"{place}-texts", LabelledTexts, lambda run: texts.stage(run, classify.data, prepared=prepared, base=base)
        )
        config = ClassifyStageConfig(head=classify.head, trainer=settings.finetune.training)
        model = self.made(place, Classifier, lambda run: train.stage(run, config, texts=packed, base=base))
        report = self.made(
            f"{place}-report",
            Classification,
            lambda run: measure.stage(run, classify.report, classifier=model, texts=packed, base=base),
        )
        rows = [json.loads(line) for line in report.path(report.PREDICTIONS).read_text().splitlines()]
        true = [row["labels"] for row in rows]
        figures = {FINETUNED: task.measured(true, [row["said"] for row in rows])}
        for name in rows[0]["others"]:
            figures[name] = task.measured(true, [row["others"][name] for row in rows])
        test = read_texts(classify.data.test, classify.data, prepared)
        said = TextClassifier.open(model.folder).predict([text.text for text in test])
        return packed, figures | {WHOLE: task.measured([text.labels for text in test], said)}

    def base(self, settings: ProjectConfig) -> tuple[PreparedData, TrainedModel]:
        """The model that has read the texts of both tasks."""
        prepared = self.made("prepared", PreparedData, lambda run: prepare.stage(run, settings.data))
        config = PretrainConfig(model=settings.model, trainer=settings.trainer)
        return prepared, self.made("base", TrainedModel, lambda run: pretrain.stage(run, config, prepared=prepared))

    def settings(self, overrides: Sequence[str]) -> ProjectConfig:
        """As the flow ``lacewing finetune finetune=classify experiment=text`` would have them."""
        read = [*(task.train for task in reversed(TASKS)), "pretrain/c4_sample/c4_300.jsonl.gz"]
        sources = f"data.sources=[{','.join(str(self.data / name) for name in read)}]"
        return compose_project("text", ["finetune=classify", sources, *BASE.split(), *overrides, *self.overrides])

    def made(self, name: str, kind: type[Kind], make: Callable[[Run], Any]) -> Kind:
        """What the folder ``name`` holds, made first if it is missing."""
        folder = self.folder / name
        if not (folder / RECORD).exists():
            make(Run.local(folder, kind.stages[0]))
        return kind.open(folder)


def shares(values: Sequence[float]) -> str:
    """The mean, and the values by seed."""
    return f"{mean(values):.1%} ({', '.join(f'{100 * value:.1f}' for value in values)})"


if __name__ == "__main__":
    main()
