"""The artifacts of the stages ``cascade`` and ``study``. Light: no torch, no numpy."""

from pathlib import Path
from typing import ClassVar

from components.core.artifact import Artifact
from components.core.records import read_record
from components.evaluation.factuality.results import CascadeResults


class CascadeAssessment(Artifact):
    """What asking a helper is worth, over all call budgets."""

    stages = ("cascade",)

    RESULTS: ClassVar = "facts.json"
    CURVE_PNG: ClassVar = "curve.png"
    CURVE_SVG: ClassVar = "curve.svg"
    TEXTS: ClassVar = "texts.html"
    TEXTS_PNG: ClassVar = "texts.png"
    BIOGRAPHIES: ClassVar = "biographies.jsonl"
    PROBE_ANSWERS: ClassVar = "probe_answers.jsonl"
    RESPONSES: ClassVar = "responses.jsonl"
    SOLUTIONS: ClassVar = "solutions.jsonl"
    RETRIEVAL: ClassVar = "retrieval"

    def results(self) -> CascadeResults:
        """Everything that was measured; raises ``ArtifactError`` if the record is damaged."""
        return read_record(self.path(self.RESULTS), CascadeResults, "the assessment of a cascade")

    @property
    def retrieval_index(self) -> Path | None:
        """The index that was made for a helper that retrieves; ``None`` for other helpers."""
        folder = self.folder / self.RETRIEVAL
        return folder if folder.is_dir() else None


class Study(Artifact):
    """Ways of choosing the delegated tokens, side by side."""

    stages = ("study",)

    SUMMARY: ClassVar = "study.json"
    CURVE_PNG: ClassVar = CascadeAssessment.CURVE_PNG
    CURVE_SVG: ClassVar = CascadeAssessment.CURVE_SVG
