"""The artifact of the stage ``chats``: conversations as text that a model can be trained on."""

import json
from typing import TYPE_CHECKING, ClassVar

from components.data.chats.columns import ASSISTANT
from components.data.prepared import PreparedData

if TYPE_CHECKING:
    from components.data.columns import Column, Columns


class Chats(PreparedData):
    """Packed conversations, with the tokenizer of their base and a mask of what the assistant says.

    Laid out as ``PreparedData``, so whatever reads one reads the other: labelling, calibration, training.
    """

    stages: ClassVar[tuple[str, ...]] = ("chats",)

    COLUMNS: ClassVar = "columns"
    HELD_OUT: ClassVar = "held_out.jsonl"

    @property
    def columns(self) -> "Columns":
        """What is known of every token; raises ``ArtifactError`` if it is damaged."""
        from components.data.columns import Columns

        return Columns.open(self.path(self.COLUMNS), self.shards())

    def held_out(self) -> list[list[dict[str, str]]]:
        """The conversations of the test split, as messages."""
        with self.path(self.HELD_OUT).open(encoding="utf-8", newline="\n") as file:
            return [json.loads(line)["messages"] for line in file]


def spoken(prepared: PreparedData) -> "Column | None":
    """Which tokens the assistant says in ``prepared``; ``None`` if it holds plain text."""
    return Chats.open(prepared.folder).columns[ASSISTANT] if prepared.stage in Chats.stages else None
