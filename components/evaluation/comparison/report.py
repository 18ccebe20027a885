"""The report of a comparison, for the page of markdown and that of HTML."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from components.core.durations import duration
from components.evaluation.comparison.results import Change, ComparisonResults, Finding, Spent, label
from components.evaluation.report import short
from components.evaluation.report_page import Picture, Section, Table, Words

_VERDICTS = {"better": "better", "worse": "worse", "undecided": "not shown to differ", "no direction": ""}
_SAID_CHARACTERS = 240


def title(results: ComparisonResults) -> str:
    first, *others = results.models
    return f"{', '.join(others)} against {first}"


def report(results: ComparisonResults, shown: Sequence[Change], picture: Picture) -> Iterator[Section]:
    """What people read: the verdicts in words, differences, values, examples that changed, and the cost."""
    yield Section("What differs", [Words(_verdict(results)), picture, Words(_how_to_read(results))])
    for model, found in groupby(sorted(results.findings, key=lambda each: _place(results, each)), lambda f: f.model):
        differences = list(found)
        yield Section(f"{model} against {differences[0].against}", [_differences(model, differences)])
    yield Section("All values, each on all of its own examples", [_values(results)])
    yield from _examples(results, shown)
    yield Section("What it cost", [_costs(results.spent)])


def _place(results: ComparisonResults, finding: Finding) -> int:
    return results.models.index(finding.model)


def _verdict(results: ComparisonResults) -> str:
    sentences = []
    for model in results.models[1:]:
        own = [each for each in results.findings if each.model == model]
        parts = [
            f"{word} on {', '.join(named)}"
            for word in ("better", "worse")
            if (named := [label(each.task, each.format, each.metric) for each in own if each.verdict == word])
        ]
        open_ones = sum(each.verdict == "undecided" for each in own)
        if open_ones:
            parts.append(f"not shown to differ on {open_ones} of {sum(each.direction is not None for each in own)}")
        sentences.append(f"{model} is {'; '.join(parts) or 'not compared'}, against {results.models[0]}.")
    return " ".join(sentences)


def _how_to_read(results: ComparisonResults) -> str:
    level = 1 - results.confidence
    verdicts = sum(each.direction is not None for each in results.findings)
    return (
        f"Both models of a line are measured on the same examples. The interval covers {results.confidence:.0%} of the "
        "resamples (bootstrap over documents), uncorrected. The verdict is corrected: right and wrong answers have the "
        "exact sign test (McNemar), other metrics the paired permutation test, and p-values are corrected by Holm "
        f"for all {verdicts} verdicts, so that the chance of a single wrong one is at most {level:.0%}. Detectable "
        "is the smallest difference that the line would have shown in 80 % of the cases: where it is large, equal "
        "figures say little."
    )


def _differences(model: str, found: Sequence[Finding]) -> Table:
    header = [
        "", model, found[0].against, "difference", "interval", "verdict", "p, corrected", "detectable", "examples",
    ]  # fmt: skip
    return Table(header, [_line(each) for each in found])


def _line(finding: Finding) -> list[str]:
    estimate, low, high = finding.difference
    unpaired = f" ({finding.unpaired:,} left out)" if finding.unpaired else ""
    return [
        label(finding.task, finding.format, finding.metric),
        f"{finding.value:.4g}",
        f"{finding.value_against:.4g}",
        f"{estimate:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        _VERDICTS[finding.verdict],
        f"{finding.corrected:.2g}" if finding.direction else "",
        "none" if finding.detectable is None else f"{finding.detectable:.4f}",
        f"{finding.documents:,}{unpaired}",
    ]


def _values(results: ComparisonResults) -> Table:
    rows = [
        [name, *("–" if (value := row.get(model)) is None else f"{value:.4g}" for model in results.models)]
        for name, row in results.values.items()
    ]
    return Table(["", *results.models], rows)


def _examples(results: ComparisonResults, shown: Iterable[Change]) -> Iterator[Section]:
    for (model, against, name), changes in groupby(
        shown, lambda each: (each.model, each.against, label(each.task, each.format, each.metric))
    ):
        won, lost = results.counts[f"{model}: {name}"]
        rows = [
            ["won" if each.gain > 0 else "lost", each.document, _cut(each.said), _cut(each.said_against),
             f"{each.gain:+.3g}"]
            for each in changes
        ]  # fmt: skip
        title = f"{name}: {model} won {won:,} and lost {lost:,} against {against}"
        yield Section(title, [Table(["", "example", f"{model} said", f"{against} said", "gain"], rows)])


def _cut(text: str) -> str:
    return text if len(text) <= _SAID_CHARACTERS else f"{text[:_SAID_CHARACTERS]} ..."


def _costs(spent: Iterable[Spent]) -> Table:
    header = ["model", "examples", "tokens", "calls", "time", "CPU time", "energy of the machine"]
    return Table(header, [_cost(each) for each in spent])


def _cost(spent: Spent) -> list[str]:
    return [
        spent.model,
        f"{spent.examples:,}",
        short(spent.tokens),
        f"{spent.calls:,}",
        duration(spent.seconds),
        "not measured" if spent.cpu_seconds is None else duration(spent.cpu_seconds),
        "cannot be read here" if spent.joules is None else f"{spent.joules:,.0f} J",
    ]
