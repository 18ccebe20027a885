"""The artifact of the stage ``arena``. Light: no torch, no numpy."""

from typing import ClassVar

from components.core.artifact import Artifact
from components.core.records import read_record
from components.evaluation.arena.results import ArenaResults


class Arena(Artifact):
    """Models that met each other."""

    stages = ("arena",)

    RESULTS: ClassVar = "arena.json"
    SCORES: ClassVar = "scores.parquet"
    PAGE: ClassVar = "arena.html"

    def results(self) -> ArenaResults:
        """Strengths and win rates."""
        return read_record(self.path(self.RESULTS), ArenaResults, "the result of an arena")
