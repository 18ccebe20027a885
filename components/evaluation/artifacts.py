"""The artifacts of the stages ``assess`` and ``gate``. Light: no torch, no numpy."""

from pathlib import Path
from typing import ClassVar

from components.core.artifact import Artifact
from components.core.records import read_lines
from components.evaluation.results import Answer, Sample


class Scores(Artifact):
    """How good a model is on text that it has not seen."""

    stages = ("assess",)

    CURVE_PNG: ClassVar = "loss.png"
    CURVE_SVG: ClassVar = "loss.svg"
    DOCUMENTS: ClassVar = "documents.npy"
    ANSWERS: ClassVar = "answers.jsonl"
    SAMPLES: ClassVar = "samples.jsonl"

    def answers(self) -> list[Answer]:
        """Questions and what the model wrote; none where the data has no questions."""
        path = self.folder / self.ANSWERS
        return read_lines(path, Answer, "an answer") if path.is_file() else []

    def samples(self) -> list[Sample]:
        """Held-out documents as the model continued them."""
        return read_lines(self.path(self.SAMPLES), Sample, "a sample")


class GateDecision(Artifact):
    """Whether a model may become champion, and why."""

    stages = ("gate",)

    DECISION: ClassVar = "decision.json"
    SCORES: ClassVar = "scores.parquet"

    @property
    def promote(self) -> bool:
        return bool(self.details["promote"])

    @property
    def outcome(self) -> str:
        """``promote``, ``hold`` or ``refuse``."""
        return str(self.details["outcome"])

    @property
    def reason(self) -> str:
        return str(self.details["reason"])


class Evaluation(Artifact):
    """What a model came to, on any tasks: the table of scores and a report."""

    stages = ("evaluate",)

    SCORES: ClassVar = "scores.parquet"
    PAGE: ClassVar = "report.html"

    @property
    def scores(self) -> Path:
        """The table, see ``components.evaluation.score_table``."""
        return self.path(self.SCORES)

    @property
    def page(self) -> Path:
        """The report as one file that can be sent."""
        return self.path(self.PAGE)
