"""What a teacher has told: the artifacts of ``teach``, ``write`` and ``choose``. Light: no torch, no numpy."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from components.core.artifact import CHECKPOINTS, Artifact
from components.data.prepared import PreparedData

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


class TeacherText(BaseModel):
    """A text that a teacher has written: a line of the files of ``TeacherTexts``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    number: int
    """Of the prompt."""
    prompt: str
    """What it goes on from."""
    text: str
    """What the teacher wrote after it; empty if that was nothing."""
    tokens: int
    """Of the teacher."""
    ended: bool
    """Whether the teacher ended it, and not the limit of tokens."""
    logprob: float | None
    """Mean log-probability of its tokens for the teacher, in nats; ``None`` if that is not known."""


class TeacherTexts(Artifact):
    """Texts that a teacher has written, one for each prompt."""

    stages: ClassVar[tuple[str, ...]] = ("write",)

    TEXTS: ClassVar = "texts.jsonl"
    ANSWERS: ClassVar = f"{CHECKPOINTS}/answers.jsonl"
    """While it is made: what has been answered already."""

    def texts(self) -> list[TeacherText]:
        """All of them, in the order of the prompts."""
        return read_texts(self.path(self.TEXTS))


class ChosenTexts(PreparedData):
    """Those of them that are learnt, as shards beside a part of the corpus.

    Laid out as ``PreparedData``, with the tokenizer and the held-out splits of the corpus.
    """

    stages: ClassVar[tuple[str, ...]] = ("choose",)


def read_texts(path: Path) -> list[TeacherText]:
    """The texts of the complete lines of a file; none if there is no file."""
    if not path.is_file():
        return []
    *lines, _ = path.read_bytes().split(b"\n")  # what follows the last line end is half a line
    return [TeacherText.model_validate_json(line) for line in lines]
