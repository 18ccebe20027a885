"""The artifact of the stage ``converse``. Light: no torch, no numpy."""

from typing import ClassVar

from components.core.artifact import Artifact
from components.core.records import read_lines, read_record
from components.finetune.chat.results import ConverseResults, Said


class Conversed(Artifact):
    """How well a model converses."""

    stages = ("converse",)

    RESULTS: ClassVar = "conversing.json"
    ANSWERS: ClassVar = "answers.jsonl"
    PAGE: ClassVar = "conversations.html"
    RETRIEVAL: ClassVar = "retrieval"

    def results(self) -> ConverseResults:
        """Everything that was found."""
        return read_record(self.path(self.RESULTS), ConverseResults, "results of conversations")

    def answers(self) -> list[Said]:
        """Every answer."""
        return read_lines(self.path(self.ANSWERS), Said, "an answer")
