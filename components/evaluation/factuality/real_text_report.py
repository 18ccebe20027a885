"""The sections of the page about real text, in markdown. Light, as ``report.py`` is."""

from collections.abc import Iterator, Mapping, Sequence

from components.evaluation.factuality.real_text import (
    CalculationResults,
    FactScore,
    FactScoreResults,
    ProbeResults,
    WrittenCalculations,
)
from components.evaluation.factuality.report import table
from components.evaluation.report import plain_text
from components.evaluation.results import Interval

_PARTS = {"all": "all asked", "head": "– of the training text", "tail": "– others"}
_RELATIONS_SHOWN = 8
_OWN = ["written by", "problems", "calculations", "results right", "problems solved", "calls", "calls wasted"]


def probes_section(results: Mapping[str, Sequence[ProbeResults]]) -> str:
    """Probes by model ("taught to ask", "plain") and file; empty without any."""
    found = [(model, each) for model, files in results.items() for each in files]
    if not found:
        return ""
    header = ["file, model", "probes", "alone", "with calls", "asked at the answer", "where wrong alone", "where right"]
    text = (
        "Greedy continuations that begin with an accepted answer. A model that knows what it does not know asks at the "
        "first token of what it would get wrong, and nowhere else. Subjects of the training text and others are drawn "
        "apart where the file tells them."
    )
    parts = ["## Questions about real entities", text, table(header, [row for one in found for row in _rows(*one)])]
    # Of the first model only: a model that was not taught to ask is compared by the scores above.
    for each in next(iter(results.values())):
        if relations := list(_relations(each)):
            parts.append(table([f"relations of {plain_text(each.file)}", "probes", "alone", "with calls"], relations))
    return "\n\n".join(parts)


def factscore_section(results: Mapping[str, FactScoreResults]) -> str:
    """FActScore by model; empty without any."""
    if not results:
        return ""
    some = next(iter(results.values()))
    header = [
        "written by",
        "facts supported",
        f"length penalty (γ = {some.gamma})",
        "responds",
        "facts per response",
        "without verdict",
    ]
    rows = [
        [f"{model}, {way}", *_scores(score)]
        for model, each in results.items()
        for way, score in (("alone", each.alone), ("with calls", each.cascade))
    ]
    text = (
        f"Min et al. (2023), over {some.alone.entities} entities and their articles. Facts are "
        f"{plain_text(some.facts_by)}; judged by {plain_text(some.judged_by)}. Scores by other judges or other facts "
        "are not comparable."
    )
    return "\n\n".join(["## Biographies of real people (FActScore)", text, table(header, rows)])


def calculations_section(results: Mapping[str, CalculationResults]) -> str:
    """Results of calculations by model; empty without any."""
    if not results:
        return ""
    some = next(iter(results.values()))
    given = (
        f"The {some.calculations:,} calculations of {some.problems:,} given solutions: each model reads the text up to "
        "`<<48/2=` and writes the result. Right is what equals the value of the expression, however it is written. "
        f"At most {some.budget:.0%} of the tokens of a solution may call; a call is wasted where the helper has "
        "nothing to say. The plain model calls where it doubts."
    )
    header = ["model", "results right, alone", "with calls", "results asked for", "tokens that call", "calls wasted"]
    rows = [
        [model, _interval(each.alone), _interval(each.cascade)]
        + [f"{share:.1%}" for share in (each.called, each.calls, each.wasted)]
        for model, each in results.items()
    ]
    parts = ["## Results of calculations", given, table(header, rows)]
    own = [
        [f"{model}, {way}", *_own(written)]
        for model, each in results.items()
        for way, written in (("alone", each.written_alone), ("with calls", each.written_cascade))
        if written is not None
    ]
    if own:
        parts += ["Solutions that the models write themselves, from the question alone:", table(_OWN, own)]
    return "\n\n".join(parts)


def _own(written: WrittenCalculations) -> list[str]:
    return [
        f"{written.problems:,}",
        f"{written.calculations:,}",
        _interval(written.right) if written.right else "–",
        *(f"{share:.1%}" for share in (written.solved, written.calls, written.wasted)),
    ]


def _rows(model: str, results: ProbeResults) -> Iterator[list[str]]:
    for part, score in results.parts.items():
        everything = part == "all"
        yield [
            f"{plain_text(results.file)}, {model}" if everything else _PARTS[part],
            f"{score.probes:,}",
            _interval(score.alone),
            _interval(score.cascade),
            f"{results.asked:.1%}" if everything else "",
            _share(results.asked_where_wrong) if everything else "",
            _share(results.asked_where_right) if everything else "",
        ]


def _relations(results: ProbeResults) -> Iterator[list[str]]:
    if len(results.relations) < 2:
        return
    most = sorted(results.relations.items(), key=lambda item: -item[1][0])[:_RELATIONS_SHOWN]
    for name, (count, alone, cascade) in most:
        yield [plain_text(name), f"{count:,}", f"{alone:.1%}", f"{cascade:.1%}"]


def _scores(score: FactScore) -> list[str]:
    unsure = f"{score.failures:,}"
    if score.failures and score.least is not None and score.most is not None:
        unsure += f" (score between {score.least:.1%} and {score.most:.1%})"
    return [
        _interval(score.score) if score.score else "–",
        _interval(score.penalised) if score.penalised else "–",
        f"{score.respond_ratio:.0%}",
        f"{score.facts_per_response:.1f}",
        unsure,
    ]


def _interval(interval: Interval) -> str:
    return f"**{interval.estimate:.1%}** ({interval.low:.1%} to {interval.high:.1%})"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
