"""The artifact of the stage ``compare``. Light: no torch, no numpy."""

from typing import ClassVar

from components.core.artifact import Artifact
from components.core.records import read_lines, read_record
from components.evaluation.comparison.results import Change, ComparisonResults


class Comparison(Artifact):
    """Models side by side."""

    stages = ("compare",)

    RESULTS: ClassVar = "comparison.json"
    CHANGES: ClassVar = "changes.jsonl"
    PAGE: ClassVar = "comparison.html"

    def results(self) -> ComparisonResults:
        """Everything that was found."""
        return read_record(self.path(self.RESULTS), ComparisonResults, "a comparison")

    def changes(self) -> list[Change]:
        """Every example that was won or lost."""
        return read_lines(self.path(self.CHANGES), Change, "a changed example")
