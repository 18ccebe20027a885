"""What was found of a model that converses: records for files and for the report. Light: no torch, no numpy."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from components.evaluation.results import Interval

_RECORD = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Said(BaseModel):
    """One answer; a line of ``answers.jsonl``."""

    model_config = _RECORD

    model: str
    """Who answered, and how it was asked."""
    budget: float
    """Share of calls that was allowed; 0 is the model alone."""
    question: str
    text: str
    """What it said."""
    well_formed: bool
    """It ends by itself, is not empty, and holds no other special token."""
    expected: str | None = None
    """The value that is asked for, where one is known."""
    right: bool | None = None
    """It states the value."""
    wrong: bool | None = None
    """It states something that is not true, most often another value."""
    decisions: int = 0
    calls: int = 0


class Standing(BaseModel):
    """All answers of one model at one budget."""

    model_config = _RECORD

    model: str
    budget: float
    answers: int
    well_formed: Interval
    right: Interval | None
    """Exact match."""
    wrong: Interval | None
    calls: float
    """Share of the decisions that became calls."""


class Forgetting(NamedTuple):
    """Bits per byte of held-out pretraining text, before and after the finetuning."""

    before: float
    after: float

    @property
    def growth(self) -> float:
        """By which part it has grown."""
        return self.after / self.before - 1


class ConverseResults(BaseModel):
    """Everything that ``converse`` measured."""

    model_config = _RECORD

    standings: list[Standing]
    """The base by sentence beginnings first, then the model at each budget, 0 first."""
    budget: float
    """That of the cascade."""
    forgetting: Forgetting
    asks: bool
    """Whether the model has learnt to ask; else it calls where it doubts."""
    helper: str
    confidence: float

    def at(self, budget: float) -> Standing:
        """The model at ``budget``."""
        return next(each for each in self.standings[1:] if each.budget == budget)
