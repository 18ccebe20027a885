"""Stage ``study``: ways of choosing the delegated tokens, side by side, with intervals over seeds.

All models were trained on the same data and differ in which tokens they learned to ask for. There are two fair
comparisons, which are kept apart: at equal optimizer steps, and at equal numbers of tokens with a gradient towards the
text. (Methods that leave tokens out would otherwise have an advantage or a disadvantage from the length of training.)
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from components.core.artifact import REPORT
from components.core.atomic import write_json, write_text
from components.core.errors import ArtifactError
from components.core.run import Run
from components.evaluation.config import BootstrapConfig
from components.evaluation.factuality.artifacts import CascadeAssessment, Study
from components.evaluation.factuality.curve import draw_budget_curve
from components.evaluation.factuality.report import table
from components.evaluation.factuality.results import CascadeResults, Written
from components.evaluation.results import Interval
from components.evaluation.seeds import seed_interval

Seeds = Sequence[CascadeResults]
Metric = Callable[[CascadeResults], float]
NAN = float("nan")


def _at(budget: float) -> Metric:
    def accuracy(results: CascadeResults) -> float:
        return next((point.accuracy for point in results.model.curve if point.budget == budget), NAN)

    return accuracy


def _precision(written: Written | None) -> float:
    return written.precision.estimate if written is not None and written.precision is not None else NAN


# The columns of the table, in their order.
COLUMNS: dict[str, Metric] = {
    "alone": lambda found: found.model.curve[0].accuracy,
    "5 %": _at(0.05),
    "10 %": _at(0.1),
    "at budget": lambda found: found.model.at_budget.accuracy,
    "bound": lambda found: found.model.at_budget.bound,
    "gain of bound": lambda found: found.model.gain_of_bound,
    "calls on non-facts": lambda found: found.model.at_budget.wasted,
    "AUROC wrong facts": lambda found: found.model.auroc_wrong_fact,
    "written facts true, alone": lambda found: _precision(found.model.alone),
    "written facts true, cascade": lambda found: _precision(found.model.cascade),
    "leakage": lambda found: NAN if found.model.leakage is None else found.model.leakage,
    "bits/byte non-facts": lambda found: found.model.bits_per_byte.get("other", NAN),
    "tokens learnt": lambda found: float(found.cost.tokens_gt_grad),
}
_COUNTS = ("tokens learnt",)
_PLAIN_NUMBERS = ("bits/byte non-facts", "AUROC wrong facts")


def stage(run: Run, config: BootstrapConfig, **cascades: CascadeAssessment) -> Study:
    """One table and one chart over the ``cascades`` of several methods and seeds, by name.

    Metrics: ``<method>.<metric>``, means over the seeds. Raises ``ArtifactError`` if the cascades do not share their
    budget.
    """
    groups = _groups([each.results() for each in cascades.values()])
    summary = {
        method: {
            name: seed_interval([metric(found) for found in seeds], config.confidence)
            for name, metric in COLUMNS.items()
        }
        for method, seeds in groups.items()
    }
    write_json(
        run.folder / Study.SUMMARY,
        {method: {name: interval._asdict() for name, interval in row.items()} for method, row in summary.items()},
    )
    some = next(iter(groups.values()))
    paths: list[Path] = [run.folder / Study.CURVE_PNG, run.folder / Study.CURVE_SVG]
    draw_budget_curve(
        {method: [found.model.curve for found in seeds] for method, seeds in groups.items()}, some[0].budget, paths
    )
    write_text(run.folder / REPORT, _report(groups, summary, config.confidence))
    metrics = {
        f"{method}.{_slug(name)}": interval.estimate
        for method, row in summary.items()
        for name, interval in row.items()
        if interval.estimate == interval.estimate
    }
    run.log(metrics, None)
    run.report(1.0, f"{len(groups)} methods, {len(cascades)} runs")
    details = {"methods": list(groups), "seeds": sorted({found.seed for found in some})}
    return run.seal(metrics, details, view=Study)


def _groups(results: Seeds) -> dict[str, list[CascadeResults]]:
    budgets = {found.budget for found in results}
    if len(budgets) != 1:
        raise ArtifactError(f"cascades at different budgets cannot be compared: {sorted(budgets)}; give all the same")
    several = len({found.match for found in results}) > 1
    groups: dict[str, list[CascadeResults]] = defaultdict(list)
    for found in results:
        groups[f"{found.selection} (equal {found.match})" if several else found.selection].append(found)
    return dict(groups)


def _report(groups: dict[str, list[CascadeResults]], summary: dict[str, dict[str, Interval]], confidence: float) -> str:
    some = next(iter(groups.values()))
    seeds = sorted({found.seed for found in some})
    rows = [
        [f"**{method}**", *(_cell(name, interval) for name, interval in row.items())] for method, row in summary.items()
    ]
    return (
        "\n\n".join(
            [
                "# Ways of choosing what to ask",
                f"Facts right on held-out text at a call budget of **{some[0].budget:.0%}**, the called tokens filled "
                "in, beside the bound (calls placed exactly where a fact would be wrong). Means over seeds "
                f"{', '.join(map(str, seeds))} ± half of the {confidence:.0%} t interval. Methods that were never "
                "taught to call ask where they doubt (entropy). Written facts are those of biographies that the model "
                "writes, each looked up in the fact table.",
                f"![Facts right over the call budget by method, and calls wasted on non-facts]({Study.CURVE_PNG})",
                table(["chosen by", *COLUMNS], rows),
            ]
        )
        + "\n"
    )


def _cell(name: str, interval: Interval) -> str:
    if interval.estimate != interval.estimate:
        return "–"
    half = interval.high - interval.estimate
    if name in _COUNTS:
        return f"{interval.estimate:,.0f}"
    if name in _PLAIN_NUMBERS:
        return f"{interval.estimate:.3f}" + (f" ± {half:.3f}" if half == half else "")
    return f"{interval.estimate:.1%}" + (f" ± {100 * half:.1f}" if half == half else "")


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower().replace("%", "percent"))
