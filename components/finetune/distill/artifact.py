"""The artifact of the stage ``teach``: what a teacher expects at every token. Light: no torch, no numpy."""

from typing import TYPE_CHECKING, ClassVar

from components.core.artifact import Artifact

if TYPE_CHECKING:
    from components.data.columns import Columns
    from components.data.shards import ShardSet

TEACHER_IDS = "teacher_ids"
"""Column [k]: the tokens that the teacher finds likeliest in the place of this one, ``<CALL>`` left out."""
TEACHER_LOGPROBS = "teacher_logprobs"
"""Column [k]: their log-probabilities in nats, likeliest first."""


class Teaching(Artifact):
    """Columns beside the shards."""

    stages: ClassVar[tuple[str, ...]] = ("teach",)

    COLUMNS: ClassVar = "columns"

    def columns(self, shards: "ShardSet") -> "Columns":
        """The teacher's columns; raises ``ArtifactError`` if they were made for other shards."""
        from components.data.columns import Columns

        return Columns.open(self.path(self.COLUMNS), shards)

    @property
    def context_length(self) -> int:
        """Tokens that the teacher has read together."""
        return int(self.details["context_length"])

    @property
    def call_id(self) -> int:
        """``<CALL>``, which takes no part."""
        return int(self.details["call_id"])
