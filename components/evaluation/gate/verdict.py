"""The rule of the gate: from what two served models did on the same examples to promote, hold or refuse, and why.

``refuse``: a limit is broken, or a metric that guards is shown to be worse. ``promote``: nothing is, and one metric
that decides is shown to be better (or, with a margin, to stay within it). ``hold``: nothing is shown either way,
and the champion stays. "Shown" means that the confidence interval of the paired difference lies on one side. Intervals
are widened for the number of metrics compared (Bonferroni), so that looking at many promotes no one by chance.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from components.evaluation.bootstrap import difference_interval
from components.evaluation.config import Criterion, GateConfig
from components.evaluation.gate.evidence import Evidence, Measure
from components.evaluation.gate.metrics import METRICS, Metric
from components.evaluation.results import Interval

Outcome = Literal["promote", "hold", "refuse"]
Shown = Literal["better", "worse", "within the margin", "undecided"]

_EXAMPLES = 3  # that a reason names


class Finding(BaseModel):
    """One metric of both models."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    metric: str
    role: Literal["decides", "guards", "reported"]
    challenger: float | None
    """``None``: it does not apply, or the model gives no finite value."""
    champion: float | None = None
    difference: Interval | None = None
    """Challenger - champion, on the examples that both have."""
    shown: Shown | None = None
    """What the interval shows; ``None`` where nothing was compared."""
    fault: str = ""
    """The limit that it breaks, in words."""

    @property
    def definition(self) -> Metric:
        return METRICS[self.metric]

    @property
    def words(self) -> str:
        """For people: both values, and the difference with its interval."""
        metric = self.definition
        if self.challenger is None:
            return f"{metric.label}: not measured"
        text = f"{metric.label} {metric.written(self.challenger)}"
        if self.champion is not None:
            text += f" against {metric.written(self.champion)}"
        if self.difference is not None:
            low, high = metric.difference(self.difference.low), metric.difference(self.difference.high)
            text += f" ({low} to {high})"
        return text


class Verdict(BaseModel):
    """The decision of the gate; contents of ``decision.json``."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    outcome: Outcome
    reason: str
    documents: int
    """Held-out documents that were scored."""
    confidence: float = 0.0
    """Of each interval, after the correction for their number."""
    findings: list[Finding] = []

    @property
    def promote(self) -> bool:
        return self.outcome == "promote"

    @property
    def metrics(self) -> dict[str, float]:
        """Flat metrics for MLflow."""
        found: dict[str, float] = {}
        for each in self.findings:
            values = {"challenger": each.challenger, "champion": each.champion}
            if each.difference is not None:
                values |= {"difference": each.difference.estimate}
                values |= {"difference_low": each.difference.low, "difference_high": each.difference.high}
            found |= {f"{each.metric}.{name}": value for name, value in values.items() if value is not None}
        return found


def decide(challenger: Evidence, champion: Evidence | None, cfg: GateConfig) -> Verdict:
    """Judge the evidence of two models on the same examples; ``None``: there is no champion yet."""
    documents = len(challenger["bits_per_byte"].examples)
    compared = sum(_compared(name, challenger, champion, cfg) for name in METRICS)
    confidence = 1 - (1 - cfg.confidence) / max(1, compared)
    findings = [_finding(name, challenger, champion, confidence, cfg) for name in METRICS]
    outcome, reason = _outcome(findings, champion, documents, confidence, cfg)
    return Verdict(outcome=outcome, reason=reason, documents=documents, confidence=confidence, findings=findings)


def _criterion(name: str, cfg: GateConfig) -> Criterion:
    criterion: Criterion = getattr(cfg.criteria, name)
    return criterion


def _compared(name: str, challenger: Evidence, champion: Evidence | None, cfg: GateConfig) -> bool:
    """Whether the metric has a say in the verdict and both models have a finite value of it."""
    if champion is None or _criterion(name, cfg).role == "reported":
        return False
    return all(_value(evidence.get(name)) is not None for evidence in (challenger, champion))


def _value(measure: Measure | None) -> float | None:
    value = measure.value if measure is not None else None
    return value if value is not None and math.isfinite(value) else None


def _finding(name: str, challenger: Evidence, champion: Evidence | None, confidence: float, cfg: GateConfig) -> Finding:
    criterion, metric = _criterion(name, cfg), METRICS[name]
    value = _value(challenger.get(name))
    finding = Finding(
        metric=name,
        role=criterion.role,
        challenger=value,
        champion=_value(champion.get(name)) if champion is not None else None,
        fault=_fault(criterion, metric, challenger.get(name)),
    )
    if champion is None or not _compared(name, challenger, champion, cfg):
        return finding
    interval = _difference(challenger[name], champion[name], confidence, cfg)
    return finding.model_copy(update={"difference": interval, "shown": _shown(interval, criterion, metric)})


def _fault(criterion: Criterion, metric: Metric, measure: Measure | None) -> str:
    """The limit that the challenger breaks, in words."""
    if measure is not None and not np.isfinite(measure.numerator).all():
        broken = int((~np.isfinite(measure.numerator)).sum())
        return (
            f"{metric.label}: no finite value on {broken} of {len(measure.numerator)} examples. The training diverged "
            "or the weights are damaged; train again with a lower trainer.learning_rate"
        )
    value = _value(measure)
    if value is None:
        return ""
    if criterion.at_most is not None and value > criterion.at_most:
        limit = f"{metric.label} {metric.written(value)}, at most {metric.written(criterion.at_most)} is allowed"
        return limit + _examples(measure)
    if criterion.at_least is not None and value < criterion.at_least:
        return f"{metric.label} {metric.written(value)}, at least {metric.written(criterion.at_least)} is required"
    return ""


def _examples(measure: Measure | None) -> str:
    """The first examples that tell against the model."""
    if measure is None or not measure.reasons:
        return ""
    named = [f"{example} is {why}" for example, why in islice(measure.reasons.items(), _EXAMPLES)]
    more = len(measure.reasons) - len(named)
    return f": {', '.join(named)}" + (f", and {more} more" if more else "")


def _difference(challenger: Measure, champion: Measure, confidence: float, cfg: GateConfig) -> Interval:
    """On the examples that both have: they were given the same ones, in the same order."""
    assert challenger.examples == champion.examples, "the two models were measured on different examples"
    return difference_interval(
        (challenger.numerator, challenger.denominator),
        (champion.numerator, champion.denominator),
        cfg.model_copy(update={"confidence": confidence}),
    )


def _shown(interval: Interval, criterion: Criterion, metric: Metric) -> Shown:
    least, most = sorted((metric.gain(interval.low), metric.gain(interval.high)))
    if least > 0:
        return "better"
    if most < -criterion.margin:
        return "worse"
    if criterion.margin > 0 and least > -criterion.margin:
        return "within the margin"
    return "undecided"


def _outcome(
    findings: list[Finding], champion: Evidence | None, documents: int, confidence: float, cfg: GateConfig
) -> tuple[Outcome, str]:
    worse = [each for each in findings if each.shown == "worse"]
    intervals = f"{100 * confidence:.3g} % intervals, {documents} held-out documents"
    if faults := [each.fault for each in findings if each.fault]:
        also = [f"worse: {_listed(worse)} ({intervals})"] if worse else []
        return "refuse", "; ".join([*faults, *also])
    if champion is None:
        measured = [each.words for each in findings if each.role != "reported" and each.challenger is not None]
        return "promote", f"first model, there is no champion yet: {', '.join(measured)}"
    if documents < cfg.min_documents:
        return "hold", (
            f"too few held-out documents to decide: {documents}, at least {cfg.min_documents} are needed. Prepare more "
            "data, raise release.gate.max_documents, or lower release.gate.min_documents"
        )
    deciding = [each for each in findings if each.role == "decides" and each.shown is not None]
    if worse:
        return "refuse", f"worse: {_listed(worse)} ({intervals}). {_remedy(worse)}"
    if better := [each for each in deciding if each.shown == "better"]:
        others = [each for each in findings if each.shown is not None and each not in better]
        return "promote", f"better: {_listed(better)}; no worse: {_listed(others)} ({intervals})"
    if within := [each for each in deciding if each.shown == "within the margin"]:
        return "promote", f"within the margin: {_listed(within)} ({intervals})"
    return "hold", f"not shown to be better: {_listed(deciding)} ({intervals}). {_remedy(deciding)}"


def _listed(findings: list[Finding]) -> str:
    return ", ".join(each.words for each in findings) or "nothing"


def _remedy(findings: list[Finding]) -> str:
    """What a person can do about a metric that is not good enough."""
    settings = ", ".join(_settings(findings))
    return f"Train longer or on more text, compare on more documents, or accept it with {settings}"


def _settings(findings: list[Finding]) -> Iterator[str]:
    for each in findings:
        assert each.difference is not None
        worst = max(0.0, -min(each.definition.gain(each.difference.low), each.definition.gain(each.difference.high)))
        yield f"release.gate.criteria.{each.metric}.margin={math.ceil(worst * 1e4 + 1) / 1e4:g}"
