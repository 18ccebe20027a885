"""Settings of the stage ``arena``. Imports neither torch nor numpy."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from components.evaluation.config import BootstrapConfig, JudgeConfig
from components.evaluation.evaluate_config import EvaluateConfig


class ArenaJudgeConfig(JudgeConfig):
    """Who says which of two texts is better."""

    kind: Literal["local", "endpoint"] = "local"
    """`local` counts true and false statements by the facts of the closed world, exactly; `endpoint` asks any
    OpenAI-compatible server, each pair in both orders."""


class ArenaConfig(BootstrapConfig):
    """Models against each other: texts to the same prompts, judged in pairs."""

    prompts: list[str] = Field(default_factory=list)
    """Files with the prompts: `.txt`, one on each line, or `.jsonl` with `prompt` on each line. Empty: the names of the
    entities of the closed world, each of which begins a text about it."""
    max_prompts: PositiveInt = 64
    """At most this many prompts, by a fixed shuffle."""
    max_tokens: PositiveInt = 96
    """Longest text, in tokens of the model that writes it."""
    presence_penalty: float = Field(1.0, ge=-2.0, le=2.0)
    """Against loops, the same for every model; 0 leaves them be."""
    pairs: Literal["all", "first"] = "all"
    """`all`: everyone meets everyone; `first`: every other model meets the first."""
    judge: ArenaJudgeConfig = ArenaJudgeConfig()
    """Who judges."""


class ArenaStageConfig(BaseModel):
    """What the stage reads: the settings, and the players as the flow found them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    arena: ArenaConfig = ArenaConfig()
    """How they meet."""
    players: list[EvaluateConfig] = []
    """The models, in order. `model` is the folder or the address; empty for a model that is an input of the stage."""


def player_name(place: int) -> str:
    """Name of the input that is the player at ``place``."""
    return f"player_{place:02}"
