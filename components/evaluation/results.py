"""Results of the assessment of a model: records for files and for the report. Light: no torch, no numpy."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict


class Interval(NamedTuple):
    """An estimate and the two ends of its confidence interval."""

    estimate: float
    low: float
    high: float


class Answer(BaseModel):
    """A question and what the model wrote; one line of ``answers.jsonl``."""

    model_config = ConfigDict(frozen=True)

    id: str
    question: str
    prompt: str
    expected: str
    written: str
    correct: bool
    stated: int


class ExactMatch(BaseModel):
    """Share of questions answered exactly, with its interval."""

    model_config = ConfigDict(frozen=True)

    questions: int
    share: Interval


class Sample(BaseModel):
    """A continued document; one line of ``samples.jsonl``."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    prompt: str
    """Beginning of a held-out document."""
    continuation: str
    """What the model wrote."""
    original: str
    """How the document goes on, about as far."""


class Results(BaseModel):
    """Everything ``assess`` measured."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    documents: int
    """Held-out documents scored."""
    bytes: int
    """Their text in UTF-8."""
    predictions: int
    """Tokens predicted, the end of every document included."""
    confidence: float
    """Share of the resamples that the intervals cover."""
    bits_per_byte: Interval
    perplexity: float
    """exp of the mean nats per prediction."""
    call_probability: float
    """Mean probability of ``<CALL>`` before it is taken out of the softmax."""
    exact_match: dict[str, ExactMatch]
    """Over ``all`` questions, and ``head`` and ``tail``: facts stated more often than the median, or not."""
    answers: list[Answer]
    samples: list[Sample]
