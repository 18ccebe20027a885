"""Settings of conversations. Imports neither torch nor numpy: the flow's process reads this too."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from components.data.config import DataConfig
from components.data.hub import HUB_PREFIX
from components.data.sources import PYDOC, WORLD

Layout = Literal["auto", "messages", "prompt", "alpaca"]

_SETTINGS = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ConversationsConfig(BaseModel):
    """Where conversations come from. The default is questions about the closed world, with no download."""

    model_config = _SETTINGS

    sources: list[str] = Field(default=[WORLD], min_length=1)
    """What to read: `world` (questions about the facts of the closed world that the base has learnt), and paths, globs
    or addresses of .jsonl, .ndjson (also as .gz or .zst) and .parquet files."""
    layout: Layout = "auto"
    """How a line of a file holds a conversation: `messages` (a list under `messages` or `conversations`, of role and
    content, or from and value), `prompt` (prompt and response or completion), `alpaca` (instruction, input, output)."""
    on_error: Literal["fail", "skip"] = "fail"
    """Lines that hold no usable conversation: stop and name the place, or leave them out and count them."""
    validation_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of conversations that is kept for validation and calibration; of the closed world, of the facts."""
    test_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share that is kept for the assessment: no question about these facts is trained on."""
    split_by: Literal["fact", "subject"] = "fact"
    """What the closed world's questions are split by: single facts, or all facts about a person, place, work or
    event."""
    multi_turn: float = Field(default=0.2, ge=0, le=1)
    """Share of the closed world's conversations that ask for several facts, one after the other."""
    seed: int = Field(default=0, ge=0)
    """Decides which facts share a conversation."""

    @field_validator("sources")
    @classmethod
    def _sources_hold_conversations(cls, sources: list[str]) -> list[str]:
        if texts := [source for source in sources if source == PYDOC or source.startswith(HUB_PREFIX)]:
            raise ValueError(
                f"{', '.join(texts)} holds texts, not conversations: allowed are {WORLD}, and paths, globs or "
                "addresses of .jsonl and .parquet files"
            )
        return sources

    @model_validator(mode="after")
    def _splits_leave_room(self) -> "ConversationsConfig":
        if (held_out := self.validation_fraction + self.test_fraction) > 0.5:
            raise ValueError(
                f"validation_fraction + test_fraction = {held_out:g} would hold out more than half of the "
                "conversations; keep their sum at 0.5 or below"
            )
        return self

    @property
    def of_world(self) -> bool:
        """Whether the closed world is asked about."""
        return WORLD in self.sources

    @property
    def files(self) -> DataConfig | None:
        """The other sources as the readers of text take them; ``None`` without any."""
        others = [source for source in self.sources if source != WORLD]
        return DataConfig(sources=others, on_error=self.on_error) if others else None


class ChatsConfig(BaseModel):
    """What the stage `chats` reads."""

    model_config = _SETTINGS

    conversations: ConversationsConfig = ConversationsConfig()
    """Where they come from."""
    context_length: PositiveInt = 256
    """Tokens of a window."""
    replay: float = Field(default=0.01, ge=0, lt=1)
    """Share of the training windows that hold text of the pretraining."""
