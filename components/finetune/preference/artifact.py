"""The artifacts of preference tuning. Light: no torch, no numpy."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from components.core.artifact import Artifact
from components.core.records import read_lines

if TYPE_CHECKING:
    from components.data.columns import Columns
    from components.data.shards import ShardSet

ANSWER = "answer"
"""Column: k for a token of the chosen answer of the k-th pair of its window, -k for one of the rejected answer; else 0.
The token that ends the assistant's turn belongs to the answer."""
REFERENCE = "reference"
"""Column: at the last token of an answer its log-probability under the base, in nats; else 0."""


class PairRecord(BaseModel):
    """A line of ``pairs.jsonl``. The pairs of a split stand in the order of its shards."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    place: str
    """Where it was read."""
    split: str
    group: str
    """Pairs of one group are in one split, and are drawn together where intervals are estimated."""
    prompt: list[dict[str, str]]
    """The turns before the answers."""
    chosen: str
    rejected: str

    @property
    def chosen_is_longer(self) -> float:
        """1 if the chosen answer has more characters, 0 if fewer, and one half for a tie."""
        return (1 + (len(self.chosen) > len(self.rejected)) - (len(self.chosen) < len(self.rejected))) / 2


class Pairs(Artifact):
    """Pairs of answers as token shards; both answers of a pair lie in the same window of the context length."""

    stages = ("preferences",)

    SHARDS: ClassVar = "shards"
    COLUMNS: ClassVar = "columns"
    RECORDS: ClassVar = "pairs.jsonl"

    def shards(self) -> "ShardSet":
        """Raises ``ArtifactError`` if a file is missing or damaged."""
        from components.data.shards import ShardSet

        return ShardSet.open(self.path(self.SHARDS))

    def columns(self) -> "Columns":
        """The column ``answer``; raises ``ArtifactError`` if it is missing or damaged."""
        from components.data.columns import Columns

        return Columns.open(self.path(self.COLUMNS), self.shards())

    def records(self, split: str) -> list[PairRecord]:
        """The pairs of ``split`` in the order of its shards."""
        lines = read_lines(self.path(self.RECORDS), PairRecord, "a pair of answers")
        return [record for record in lines if record.split == split]

    @property
    def tokenizer_digest(self) -> str:
        """Of the tokenizer that the shards are written with."""
        return str(self.details["tokenizer"])

    @property
    def call_id(self) -> int:
        """``<CALL>`` in that tokenizer."""
        return int(self.details["call_id"])

    @property
    def context_length(self) -> int:
        """Tokens of a window."""
        return int(self.details["context_length"])


class References(Artifact):
    """What the base makes of every answer."""

    stages = ("reference",)

    COLUMNS: ClassVar = "columns"

    def columns(self, pairs: Pairs) -> "Columns":
        """The column ``reference``; raises ``ArtifactError`` if it was made for other pairs."""
        from components.data.columns import Columns

        return Columns.open(self.path(self.COLUMNS), pairs.shards())


class PreferenceAssessment(Artifact):
    """Which answers the model prefers, as a report."""

    stages = ("assess-preference",)

    PAGE: ClassVar = "preference.html"
    PREFERENCES: ClassVar = "preferences.jsonl"
