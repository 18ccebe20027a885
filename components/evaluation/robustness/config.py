"""Settings of the robustness tasks. Imports neither torch nor numpy."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

Rate = Annotated[float, Field(gt=0.0, le=0.5)]


class RobustnessConfig(BaseModel):
    """Questions that are put in several ways."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    files: list[str] = []
    """.jsonl or .jsonl.gz files with question, choices and answer (the index of the right one) on each line; none:
    the questions of the closed world."""
    questions: PositiveInt = 200
    """At most this many questions, of each file, by a fixed shuffle."""
    max_tokens: PositiveInt = 24
    """Longest answer that is written; the call budget of an answer is a share of it."""
    choices: int = Field(4, ge=2, le=20)
    """Choices made up for a question of the closed world, the right one among them."""
    formats: int = Field(10, ge=2)
    """Formats of multiple-choice questions that are compared."""
    rotations: NonNegativeInt = 0
    """Orders of the choices that are compared, each of them once at every place; 0 takes them all."""
    rates: list[Rate] = [0.1, 0.3]
    """Shares of a prompt's words that get a slip; one word at least."""
    variants: int = Field(4, ge=2)
    """Ways of putting a prompt that are compared for its sensitivity."""
    seed: NonNegativeInt = 0
    """Seed of formats, slips and made-up choices."""
