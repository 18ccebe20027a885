"""The artifact of the stage ``smoke``. Light: no torch, no server."""

from typing import ClassVar

from components.core.artifact import Artifact


class SmokeAnswer(Artifact):
    """What the real server answered to one question."""

    stages = ("smoke",)

    ANSWER: ClassVar = "answer.json"
    SERVER_LOG: ClassVar = "server.log"
    MARKS: ClassVar = ("‹", "›")
    """Stand around the words of the helper in the closing table."""

    @property
    def prompt(self) -> str:
        return str(self.details["prompt"])

    @property
    def answer(self) -> str:
        return str(self.details["answer"])
