"""Results of the assessment of a cascade: records for files, reports and comparisons. No torch."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from components.evaluation.factuality.real_text import CalculationResults, FactScoreResults, ProbeResults
from components.evaluation.results import Interval


def _number(value: Any) -> Any:
    return math.nan if value is None else value


Auroc = Annotated[float, BeforeValidator(_number)]
"""NaN where all are right or all are wrong: nothing can be told apart. JSON has no such number and holds null."""

_RECORD = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CurvePoint(BaseModel):
    """One call budget on gold text."""

    model_config = _RECORD

    budget: float
    """Share of all positions that call."""
    accuracy: float
    """Share of factual tokens that are right: known, or called for."""
    bound: float
    """The same if every call were placed where a fact would be wrong."""
    wasted: float
    """Share of the calls on tokens that state no fact; 0 without calls."""
    precision: float
    """Share of the calls where the model alone would have been wrong, fact or not; 0 without calls."""

    def gain_of_bound(self, alone: float) -> float:
        """Share of the possible gain over ``alone`` (no calls) that was reached; 1 where nothing could be gained."""
        return (self.accuracy - alone) / (self.bound - alone) if self.bound > alone else 1.0


class Written(BaseModel):
    """Biographies written in one way."""

    model_config = _RECORD

    precision: Interval | None
    """True claims over claims; ``None`` if nothing at all is claimed."""
    recall: Interval
    """Facts of the subjects stated rightly, over all their facts."""
    claims: float
    """Claims per biography."""
    understood: float
    """Share of sentences that the judge could read."""
    calls: float
    """Share of decisions that became calls."""
    helper_tokens: float
    """Share of tokens that the helper wrote."""
    failed_calls: int
    """Calls that failed because the helper failed."""


class ModelResults(BaseModel):
    """One model: where it asks, what that is worth, and what it writes alone."""

    model_config = _RECORD

    score: str
    """Score for calls: ``call`` is P(CALL); ``entropy`` for a model that never learned to call."""
    bits_per_byte: dict[str, float]
    """Of ``all`` text, its ``factual`` tokens, and ``other`` ones; <CALL> left out."""
    curve: list[CurvePoint]
    """Accuracy on facts by call budget."""
    at_budget: CurvePoint
    """The same at the cascade's budget."""
    gain_of_bound: float
    """Share of the possible gain at this budget that was reached."""
    auroc_wrong_fact: Auroc
    """Does the score tell facts that the model would get wrong from all other tokens?"""
    auroc_wrong: Auroc
    """... tokens that the model would get wrong, fact or not, from the others?"""
    auroc_wrong_among_facts: Auroc
    """... wrong facts from known ones?"""
    leakage: float | None
    """Share of questions that the model alone, calls forbidden, still answers; None without questions."""
    alone: Written | None
    """Biographies with calls forbidden; None where facts are not known."""
    cascade: Written | None
    """Biographies with calls up to the budget."""
    probes: list[ProbeResults] = []
    """Questions about real entities, by file."""
    factscore: FactScoreResults | None = None
    """Biographies of real people, judged against articles."""
    calculations: CalculationResults | None = None
    """Results of calculations, judged by arithmetic."""


class FactCalls(BaseModel):
    """Those calls of a sample that fall on tokens that state a fact."""

    model_config = _RECORD

    calls: int
    right: float
    """Share whose reply equals the continuation of the text, character by character."""
    answered: float
    """Share to which the helper had something to say."""


class HelperAccuracy(BaseModel):
    """Results of a sample of calls on gold text."""

    model_config = _RECORD

    calls: int
    right: float
    """Share whose reply equals the continuation of the text, character by character."""
    empty: float
    """Share to which the helper had nothing to add."""
    failed: float
    """Share without a usable reply."""
    seconds: float
    """Median time of an answer; 0 without answers."""
    right_without_document: float | None = None
    """`right`, if the helper may not look up the document itself; ``None`` for helpers that look nothing up."""
    facts: FactCalls | None = None
    """The calls at facts alone; ``None`` if there are none."""
    facts_without_document: FactCalls | None = None
    """The same, if the helper may not look up the document itself."""


class Cost(BaseModel):
    """The cost."""

    model_config = _RECORD

    annotation_seconds: float
    """Core seconds of labelling the text."""
    training_seconds: float
    """Wall time of training with delegation."""
    tokens_forward: int
    """Tokens read in that training."""
    tokens_gt_grad: int
    """Of these, with a gradient towards the text."""
    tokens_call_grad: int
    """Of these, with a gradient towards <CALL>."""


class CascadeResults(BaseModel):
    """All of it: ``facts.json``."""

    model_config = _RECORD

    selection: str
    match: str
    normalisation: str
    seed: int
    helper: str
    """Who answered."""
    budget: float
    """Of the cascade."""
    positions: int
    """Number of held-out tokens that were scored."""
    factual_share: float
    """Part of them that states facts."""
    confidence: float
    """Of all intervals."""
    model: ModelResults
    """The model that learned to ask."""
    plain: ModelResults | None
    """The model that it was trained from, calling where it is uncertain."""
    helper_accuracy: HelperAccuracy
    """The real helper at gold text."""
    cost: Cost
