"""The differences of a comparison as a chart: a line for each task, its interval, and what could have been seen."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.evaluation.comparison.results import Finding, label
from components.evaluation.curve import FIGURE_STYLE, INK
from components.evaluation.report_page import Picture, svg

MOST_LINES = 80  # more cannot be read; the table has them all
_COLOURS = {"better": "#3c8d5a", "worse": "#c23a5c", "undecided": "#6b7280"}


def differences(findings: Sequence[Finding]) -> Picture:
    """Findings that have a direction, better to the right, in units of what could have been detected.

    So tasks and metrics of any unit share an axis: beyond 1 on either side is what a test was made to find. Findings
    without such a unit are left out.
    """
    drawn = [each for each in findings if each.direction and each.detectable][:MOST_LINES]
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 1.4 + 0.26 * len(drawn)), layout="constrained")
        axes = figure.subplots()
        axes.axvspan(-1, 1, color=INK, alpha=0.06, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        for line, finding in enumerate(reversed(drawn)):
            _draw(axes, line, finding)
        names = [f"{each.model}  {label(each.task, each.format, each.metric)}" for each in reversed(drawn)]
        axes.set_yticks(range(len(drawn)), names, fontsize=8)
        axes.set_ylim(-0.7, len(drawn) - 0.3)
        axes.set_xlabel("gain, in units of the smallest difference that could have been detected")
        drawing = svg(figure, "differences")
    left_out = len([each for each in findings if each.direction]) - len(drawn)
    rest = f"; {left_out} more are in the tables" if left_out else ""
    return Picture(drawing, f"Gains with their intervals; in grey what could not have been told from chance{rest}")


def _draw(axes: Axes, line: int, finding: Finding) -> None:
    assert finding.detectable is not None
    sign = -1 if finding.direction == "lower" else 1
    middle, low, high = (sign * each / finding.detectable for each in finding.difference)
    colour = _COLOURS[finding.verdict]
    axes.plot([low, high], [line, line], color=colour, linewidth=1.6)
    axes.plot([middle], [line], "o", color=colour, markersize=4.5)
