"""The report on one model's evaluation, as sections of a page: scores, calibration, the curve, samples and cost."""

import json
from collections.abc import Iterator, Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from components.core.durations import duration
from components.evaluation.aggregates import Aggregate, costs
from components.evaluation.curve import FIGURE_STYLE
from components.evaluation.harness.aggregate import aggregate, centred_scores
from components.evaluation.report_page import Part, Picture, Sample, Section, Table, Words, svg
from components.evaluation.score_table import Score
from components.evaluation.text import ACCURACY, CONFIDENCE, CONTINUATION, CURVE_METRICS, calibration_error

_BLUE, _ORANGE, _GREY = "#2563a8", "#d9622b", "#8a8f98"
_SAMPLES_OF_A_TASK = 3
_APART = (CONFIDENCE, ACCURACY, CONTINUATION, *CURVE_METRICS)
"""Metrics that have a section of their own."""


def sections(scores: Sequence[Score], figures: Sequence[Aggregate], task_files: str = "") -> list[Section]:
    """Everything there is to say about the rows.

    Arguments:
        figures: the aggregates of the rows.
        task_files: the folder of a person's own task files, if any.
    """
    parts = [
        *_published(scores, task_files),
        Section("Scores", [_scores(figures)]),
        *_calibration(figures),
        *_curves(figures),
        Section("Samples", list(_samples(scores))),
        Section("Cost", [_cost(scores)]),
    ]
    return [section for section in parts if section.parts]


def headlines(figures: Sequence[Aggregate]) -> dict[str, float]:
    """The metrics of the stage by name."""
    values = {" ".join(filter(None, (each.task, each.format, each.metric))): each.value for each in figures}
    apart = {" ".join(filter(None, (e.task, e.format, e.metric))) for e in figures if e.metric in _APART}
    errors = {f"{task} calibration_error": error for task, error in calibration_errors(figures).items()}
    return {name: value for name, value in values.items() if name not in apart} | errors


def _published(scores: Sequence[Score], task_files: str) -> Iterator[Section]:
    """Tasks that have a chance level, paradigms and subjects taken together."""
    means = aggregate(scores, task_files)
    for model, tasks in centred_scores(scores, task_files).items():
        words = (
            f"The mean of the centred scores is {means[model]:.3f}, over {len(tasks)} task(s): 0 is a model that "
            "guesses, 1 is one that is always right. Paradigms and subjects count together as one task."
        )
        rows = [[name, f"{value:.3f}"] for name, value in tasks.items()]
        yield Section("Published tasks", [Words(words), Table(["task", "centred score"], rows)])


def calibration_errors(figures: Sequence[Aggregate]) -> dict[str, float]:
    """The expected calibration error by task, where the task has bins."""
    return {
        task: calibration_error(_sums(bins, CONFIDENCE), _sums(bins, ACCURACY))
        for task, bins in _by_task(figures, (CONFIDENCE, ACCURACY)).items()
    }


def _scores(figures: Sequence[Aggregate]) -> Table:
    shown = [each for each in figures if each.metric not in _APART]
    rows = [
        [each.task, each.format, each.metric, _number(each.value), _interval(each), f"{len(each.scores):,}"]
        for each in shown
    ]
    header = ["task", "format", "metric", "value", "95 % interval", "examples"]
    if any(each.format for each in shown):
        return Table(header, rows)
    return Table([header[0], *header[2:]], [[row[0], *row[2:]] for row in rows])


def _calibration(figures: Sequence[Aggregate]) -> Iterator[Section]:
    errors = calibration_errors(figures)
    for number, (task, bins) in enumerate(_by_task(figures, (CONFIDENCE, ACCURACY)).items()):
        confidence, accuracy = _sums(bins, CONFIDENCE), _sums(bins, ACCURACY)
        means = {name: (score / weight, accuracy[name][0] / weight) for name, (score, weight) in confidence.items()}
        rows = [
            [name, f"{confidence[name][1]:,.0f}", f"{sure:.3f}", f"{right:.3f}"]
            for name, (sure, right) in sorted(means.items())
        ]
        words = (
            f"The expected calibration error is {errors[task]:.3f}: so far is the probability of the likeliest token, "
            "on average, from how often that token is right."
        )
        picture = Picture(
            svg(_reliability(list(means.values())), f"reliability {number}"),
            "How often the likeliest token is right, over its probability; on the line, both agree",
        )
        yield Section(
            f"Calibration: {task}", [Words(words), picture, Table(["bin", "tokens", "probability", "right"], rows)]
        )


def _curves(figures: Sequence[Aggregate]) -> Iterator[Section]:
    for number, (task, found) in enumerate(_by_task(figures, CURVE_METRICS).items()):
        by_budget: dict[str, dict[str, float]] = {}
        for each in found:
            by_budget.setdefault(each.format, {})[each.metric] = each.value
        rows = [
            [budget.removeprefix("budget "), *(_share(values.get(metric)) for metric in CURVE_METRICS)]
            for budget, values in sorted(by_budget.items())
        ]
        points = [
            (values["calls"], values["facts_right"])
            for _, values in sorted(by_budget.items())
            if "calls" in values and "facts_right" in values
        ]
        picture = Picture(
            svg(_curve(points), f"curve {number}"), "Facts right over the calls that were really made, helper asked"
        )
        yield Section(
            f"What calls bring: {task}",
            [picture, Table(["call budget", "facts right", "calls wasted", "calls per decision"], rows)],
        )


def _samples(scores: Sequence[Score]) -> Iterator[Part]:
    shown: dict[str, int] = {}
    for row in scores:
        shown[row.task] = shown.get(row.task, 0) + bool(row.detail)
        if row.detail and shown[row.task] <= _SAMPLES_OF_A_TASK:
            yield Sample(f"{row.task}, {row.document}", _said(row))


def _said(row: Score) -> str:
    if row.metric != CONTINUATION:
        return f"{row.metric} {_number(row.score)}: {row.detail}"
    said = json.loads(row.detail)
    return f"{said['prompt']} ⟶ {said['written'].strip()}"


def _cost(scores: Sequence[Score]) -> Table:
    rows = [
        [task, f"{cost.examples:,}", f"{cost.tokens:,}", f"{cost.calls:,}", duration(cost.seconds)]
        for task, cost in costs(scores).items()
    ]
    return Table(["task", "examples", "tokens", "calls", "time"], rows)


def _by_task(figures: Sequence[Aggregate], metrics: Sequence[str]) -> dict[str, list[Aggregate]]:
    found: dict[str, list[Aggregate]] = {}
    for each in figures:
        if each.metric in metrics:
            found.setdefault(each.task, []).append(each)
    return found


def _sums(figures: Sequence[Aggregate], metric: str) -> Mapping[str, tuple[float, float]]:
    return {
        each.format: (float(each.scores.sum()), float(each.weights.sum())) for each in figures if each.metric == metric
    }


def _reliability(points: Sequence[tuple[float, float]]) -> Figure:
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(5, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1)
        axes.plot(*zip(*sorted(points), strict=True), "o-", color=_BLUE)
        axes.set_xlabel("probability of the likeliest token")
        axes.set_ylabel("how often it is right")
        return figure


def _curve(points: Sequence[tuple[float, float]]) -> Figure:
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(5, 3.5), layout="constrained")
        axes = figure.subplots()
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=_ORANGE)
        axes.set_xlabel("calls per decision")
        axes.set_ylabel("facts right")
        axes.set_ylim(0, 1)
        return figure


def _interval(figure: Aggregate) -> str:
    return f"{_number(figure.interval.low)} to {_number(figure.interval.high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
