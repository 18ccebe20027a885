"""Stage ``compare``: models side by side on the examples that all of them were evaluated on."""

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from components.core.acceptance import accepted_section
from components.core.artifact import REPORT, Artifact
from components.core.atomic import write_text
from components.core.errors import InputError
from components.core.run import Run
from components.evaluation.comparison.artifact import Comparison
from components.evaluation.comparison.compare import Evaluated, changes, findings
from components.evaluation.comparison.config import ComparisonConfig
from components.evaluation.comparison.evaluations import named_tables
from components.evaluation.comparison.picture import differences
from components.evaluation.comparison.report import report, title
from components.evaluation.comparison.results import Change, ComparisonResults, label
from components.evaluation.comparison.spending import spent
from components.evaluation.report_page import markdown, page

_METRIC = re.compile(r"[^\w./ -]")  # signs that MLflow does not take in the name of a metric


def stage(run: Run, config: ComparisonConfig, **evaluations: Artifact) -> Comparison:
    """Compare every later evaluation with the first.

    Metrics: ``<model>/<task> <format> _<metric>_``, the differences. Raises ``InputError`` for fewer than two models or
    different tasks, and ``ArtifactError`` for scores that are not finite.
    """
    scores = named_tables(evaluations)
    results, changed = compared(scores, config)
    write_text(run.folder / Comparison.RESULTS, results.model_dump_json(indent=2) + "\n")
    lines = "".join(f"{each.model_dump_json()}\n" for each in changed)
    write_text(run.folder / Comparison.CHANGES, lines)
    sections = list(report(results, shown(changed, config.examples), differences(results.findings)))
    write_text(run.folder / Comparison.PAGE, page(title(results), sections))
    write_text(run.folder / REPORT, markdown(title(results), sections) + accepted_section(run.accepted))
    metrics = {
        _METRIC.sub("_", f"{each.model}/{label(each.task, each.format, each.metric)}"): each.difference.estimate
        for each in results.findings
    }
    run.log(metrics, None)
    run.report(1.0, title(results))
    return run.seal(metrics, {"models": results.models}, rows=_rows(results), view=Comparison)


def compared(scores: Mapping[str, pa.Table], cfg: ComparisonConfig) -> tuple[ComparisonResults, list[Change]]:
    """All that is found, and every example that changed."""
    if len(scores) < 2:
        raise InputError(f"a comparison needs at least two models; given: {', '.join(scores) or 'none'}")
    measured = Evaluated.of(scores, cfg)
    pairs = list(measured.pairs())
    changed = {f"{each.model}: {each.pair.name}": changes(each, measured) for each in pairs}
    results = ComparisonResults(
        models=list(scores),
        confidence=cfg.confidence,
        values=measured.values(),
        findings=findings(pairs, cfg),
        spent=[spent(name, table) for name, table in scores.items()],
        counts={name: (sum(e.gain > 0 for e in each), sum(e.gain < 0 for e in each)) for name, each in changed.items()},
    )
    return results, [change for each in changed.values() for change in each]


def shown(changed: Sequence[Change], examples: int) -> list[Change]:
    """Of each task and metric, the ``examples`` largest gains and as many of the largest losses."""
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changed:
        groups.setdefault((change.model, label(change.task, change.format, change.metric)), []).append(change)
    return [
        change
        for group in groups.values()
        for change in (
            *[each for each in group if each.gain > 0][:examples],
            *[each for each in group if each.gain < 0][::-1][:examples],
        )
    ]


def _rows(results: ComparisonResults) -> list[tuple[str, str]]:
    """The closing table shows what was decided."""
    decided = [each for each in results.findings if each.verdict in ("better", "worse")]
    rows = [
        (
            label(each.task, each.format, each.metric),
            f"{each.model} is {each.verdict} by {abs(each.difference.estimate):.4g}",
        )
        for each in decided
    ]
    undecided = sum(each.verdict == "undecided" for each in results.findings)
    return [*rows, ("not shown to differ", f"{undecided} of {undecided + len(decided)}")]
