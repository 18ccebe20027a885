"""What an arena shows: records for its file and its page. No numpy."""

import math

from pydantic import BaseModel, ConfigDict

from components.evaluation.results import Interval

ELO_POINTS = 400 / math.log(10)
"""Points for a strength of 1: with 400 more, a model wins ten games for one that it loses."""


class Player(BaseModel):
    """One model of the arena."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    strength: Interval
    """Bradley-Terry, in log-odds; the mean over the models is 0."""
    characters: float
    """Mean length of its texts."""
    tokens: int
    calls: int
    """Of its helper, while it wrote."""
    seconds: float


class Meeting(BaseModel):
    """All games of two models."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    against: str
    games: int
    """Decided ones; both orders of a pair are two games."""
    win_rate: Interval
    """Ties count half."""
    win_rate_at_equal_length: Interval | None
    """``None`` where one of the two nearly always writes more."""
    longer_by: float
    """Characters by which its texts are longer, on average."""


class ArenaResults(BaseModel):
    """``arena.json``."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    judge: str
    prompts: int
    confidence: float
    players: list[Player]
    """The strongest first."""
    meetings: list[Meeting]
    first_wins: float | None
    """How often the text won that the judge saw first; ``None`` for a judge that does not see the order."""
    undecided: int
    """Games in which the judge gave no usable answer."""


class ShownGame(BaseModel):
    """A game that the report shows."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    prompt: str
    winner: tuple[str, str]
    """The model and its text."""
    loser: tuple[str, str]
    said: str
    """By the judge."""
