"""Results on real text, where no table holds all facts: probes, FActScore and calculations. No torch, no numpy."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.evaluation.results import Interval

_RECORD = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ProbeScore(BaseModel):
    """Share of probes answered rightly."""

    model_config = _RECORD

    probes: int
    alone: Interval
    """Calls forbidden."""
    cascade: Interval
    """With calls up to the budget."""


class ProbeResults(BaseModel):
    """One file of probes."""

    model_config = _RECORD

    file: str
    parts: dict[str, ProbeScore]
    """Over ``all`` that were asked, and where the file tells, ``head`` (the subject is written about in the training
    text) and ``tail`` (it is not)."""
    relations: dict[str, tuple[int, float, float]]
    """By relation: probes, share right alone, share right as a cascade."""
    leakage: float
    """Share of continuations written alone that hold an accepted answer anywhere."""
    asked: float
    """Share of probes that call at the first token of the answer."""
    asked_where_wrong: float | None
    """The same among those that the model alone gets wrong; None if there are none."""
    asked_where_right: float | None
    """... and among those that it gets right: asking there is wasted."""
    calls: float
    """Share of all decisions that became calls."""
    failed_calls: int
    """Calls that failed because the helper failed."""


class ProbeAnswer(BaseModel):
    """A line of the answers file."""

    model_config = _RECORD

    file: str
    subject: str
    relation: str
    known: bool | None
    """Whether the subject is written about in the training text, where the file tells."""
    prompt: str
    accepted: list[str]
    alone: str
    cascade: str
    alone_right: bool
    cascade_right: bool
    asked: bool
    """Whether the cascade called at the first token of its answer."""
    call_probability: float
    """P(CALL) there."""
    decisions: int
    calls: int
    failed_calls: int


Status = Literal["judged", "abstained", "unjudged"]


class FactVerdict(BaseModel):
    """One atomic fact."""

    model_config = _RECORD

    fact: str
    supported: bool | None
    """None: the judge gave no usable answer, and the fact counts neither way."""


class Response(BaseModel):
    """One text about one entity, judged; a line of the responses file."""

    model_config = _RECORD

    entity: str
    text: str
    status: Status
    """``abstained``: says nothing, or that it knows nothing. ``unjudged``: no fact could be judged, for failures."""
    facts: list[FactVerdict]
    unsplit: int
    """Sentences whose facts the endpoint did not return; their facts are not judged."""


class FactScore(BaseModel):
    """Min et al. (2023): how much of what is said about entities their articles support."""

    model_config = _RECORD

    score: Interval | None
    """Mean over responses of the share of supported facts; None if no response could be judged."""
    penalised: Interval | None
    """The same with the length penalty."""
    respond_ratio: float
    """Share of entities about which something was said."""
    facts_per_response: float
    entities: int
    judged: int
    """Entities that the score is the mean of."""
    failures: int
    """Facts and sentences without a usable answer of the endpoint; they count in no score."""
    least: float | None
    """The score if all facts that could not be judged were false; equals the score where all were judged."""
    most: float | None
    """... and if all of them were true."""


class FactScoreResults(BaseModel):
    """FActScore of a model alone and as a cascade, and how it was judged."""

    model_config = _RECORD

    facts_by: str
    """Who split texts into atomic facts."""
    judged_by: str
    gamma: int
    """Facts below which a response is penalised; 0 is no penalty."""
    alone: FactScore
    cascade: FactScore


class WrittenCalculations(BaseModel):
    """Solutions that the model writes itself, in one way."""

    model_config = _RECORD

    problems: int
    calculations: int
    """Calculations ``<<48/2=24>>`` in them."""
    right: Interval | None
    """Share of these whose result is right; ``None`` without calculations."""
    solved: float
    """Share of the problems whose last line gives the right answer."""
    calls: float
    """Share of decisions that became calls."""
    wasted: float
    """Share of the calls to which the calculator had nothing to say; 0 without calls."""


class CalculationResults(BaseModel):
    """Calculations in given solutions, and in solutions that the model writes."""

    model_config = _RECORD

    problems: int
    calculations: int
    """Calculations in the given solutions."""
    alone: Interval
    """Share of results that are right if the model continues ``<<48/2=`` with calls forbidden."""
    cascade: Interval
    """... with calls up to the budget."""
    called: float
    """Share of the results that the cascade asked for."""
    budget: float
    """Share of the tokens of the solutions that may call."""
    calls: float
    """Share of them that do. What the helper writes decides nothing, and counts as no token here."""
    wasted: float
    """Share of the calls to which the helper had nothing to say; 0 without calls."""
    written_alone: WrittenCalculations | None
    written_cascade: WrittenCalculations | None


class SolvedProblem(BaseModel):
    """A line of the solutions file."""

    model_config = _RECORD

    question: str
    solution: str
    """The given one."""
    alone: str
    """Written with calls forbidden."""
    cascade: str
    """Written with calls up to the budget."""
