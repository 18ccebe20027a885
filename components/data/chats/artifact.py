"""The artifact of the stage ``chats``: conversations as text that a model can be trained on."""

import json
from typing import ClassVar

from components.data.prepared import PreparedData


class Chats(PreparedData):
    """Packed conversations, with the tokenizer of their base and a mask of what the assistant says.

    Laid out as ``PreparedData``, so whatever reads one reads the other: labelling, calibration, training.
    """

    stages = ("chats",)

    HELD_OUT: ClassVar = "held_out.jsonl"

    def held_out(self) -> list[list[dict[str, str]]]:
        """The conversations of the test split, as messages."""
        with self.path(self.HELD_OUT).open(encoding="utf-8", newline="\n") as file:
            return [json.loads(line)["messages"] for line in file]
