"""The quality-against-calls curve as a chart: accuracy on facts over call budgets, and the bound."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.evaluation.curve import FIGURE_STYLE, INK, save_figure
from components.evaluation.factuality.results import CurvePoint

_COLOURS = ("#2563a8", "#d9622b", "#3c8d5a", "#8a4fa3", "#b8902c", "#c23a5c", "#4fa3a0", "#6b7280")
_MARKS = "osD^vPX*"

Curves = Sequence[Sequence[CurvePoint]]
"""The curves of one method, one for each seed."""


def draw_budget_curve(methods: Mapping[str, Curves], budget: float, paths: Sequence[Path]) -> None:
    """Draw accuracy on facts and wasted calls over the call budget into every path, in the format of its suffix.

    Arguments:
        methods: the curves of every seed by name; of several, the mean is drawn with their range.
        budget: the cascade's own, marked by a line.
        paths: ``.svg`` or ``.png``.
    """
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 6.2), layout="constrained")
        accuracy, wasted = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for number, (name, seeds) in enumerate(methods.items()):
            colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
            _draw(accuracy, seeds, "accuracy", colour, mark, name)
            _draw(wasted, [[point for point in curve if point.budget > 0] for curve in seeds], "wasted", colour, mark)
        name, first = next(iter(methods.items()))
        bound = np.mean([[point.bound for point in curve] for curve in first], axis=0)
        accuracy.plot([100 * point.budget for point in first[0]], 100 * bound, ":", color=INK, linewidth=1.2)
        accuracy.annotate(f"bound of {name}", (100 * first[0][1].budget, 100 * bound[1]), xytext=(-4, 6), ha="right",
                          textcoords="offset points", color=INK, fontsize=9)  # fmt: skip
        for axes in (accuracy, wasted):
            axes.axvline(100 * budget, color=INK, linewidth=0.8, alpha=0.4)
        accuracy.set_ylabel("facts right (% of factual tokens)")
        accuracy.set_title("What asking is worth: the called tokens are filled in", loc="left", fontsize=11, color=INK)
        accuracy.legend(frameon=False, loc="lower right")
        wasted.set_ylabel("calls on\nnon-facts (%)")
        wasted.set_xlabel("call budget (% of tokens)")
        wasted.set_ylim(0, 100)
        figure.align_ylabels([accuracy, wasted])
        save_figure(figure, paths)


def _draw(axes: Axes, seeds: Curves, column: str, colour: str, mark: str, name: str | None = None) -> None:
    budgets = [100 * point.budget for point in seeds[0]]
    values = 100 * np.array([[getattr(point, column) for point in curve] for curve in seeds])
    axes.plot(budgets, values.mean(axis=0), marker=mark, color=colour, markersize=4.5, linewidth=1.8, label=name)
    if len(values) > 1:
        axes.fill_between(budgets, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
