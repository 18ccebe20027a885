"""The loss curve of a training run as a chart: loss above, learning rate below, over optimizer steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.core.atomic import replacing

_BLUE, _ORANGE, _GREY, INK = "#2563a8", "#d9622b", "#8a8f98", "#2b2f36"
# Share of the run over which the training loss is averaged.
_SMOOTHED_OVER = 0.03
FIGURE_STYLE = {
    "font.size": 10,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.8,
    "svg.hashsalt": "lacewing",  # the same history gives the same bytes
}


def draw_loss_curve(history: Sequence[Mapping[str, float]], title: str, paths: Sequence[Path]) -> None:
    """Draw the rows of ``history.jsonl`` into every path, in the format of its suffix (``.svg``, ``.png``).

    Training rows have ``step``, ``loss``, ``learning_rate``; validation rows ``step``, ``validation_loss``. At least
    one training row is needed.
    """
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        _draw_loss(loss, history)
        step, learning_rate = _series(history, "learning_rate")
        rate.plot(step, learning_rate, color=_GREY, linewidth=1.5)
        rate.fill_between(step, learning_rate, color=_GREY, alpha=0.15, linewidth=0)
        rate.set_ylim(bottom=0)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        rate.set_ylabel("learning\nrate")
        rate.set_xlabel("optimizer steps")
        loss.set_title(title, loc="left", fontsize=11, color=INK)
        figure.align_ylabels([loss, rate])
        save_figure(figure, paths)


def save_figure(figure: Figure, paths: Sequence[Path]) -> None:
    """Write ``figure`` to every path, in the format of its suffix; the same figure gives the same bytes."""
    for path in paths:
        with replacing(path) as temporary:
            suffix = path.suffix.removeprefix(".")
            figure.savefig(temporary, format=suffix, dpi=110, metadata={"Date": None} if suffix == "svg" else None)


def _draw_loss(axes: Axes, history: Sequence[Mapping[str, float]]) -> None:
    step, loss = _series(history, "loss")
    smooth = _smoothed(loss)
    axes.plot(step, loss, color=_BLUE, alpha=0.3, linewidth=1)
    axes.plot(step, smooth, color=_BLUE, linewidth=2, label="training, smoothed")
    validation_step, validation = _series(history, "validation_loss")
    if len(validation):
        axes.plot(validation_step, validation, "o-", color=_ORANGE, linewidth=1.2, markersize=4.5, label="validation")
        axes.annotate(
            f"{validation[-1]:.3f}",
            (validation_step[-1], validation[-1]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right",
            color=_ORANGE,
            fontweight="bold",
        )
    axes.set_ylabel("loss (nats per token)")
    axes.legend(frameon=False, loc="upper right")


def _series(
    history: Sequence[Mapping[str, float]], name: str
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    rows = [(row["step"], row[name]) for row in history if name in row]
    points = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _smoothed(values: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """Centred moving average whose window shrinks symmetrically at the ends, so that it neither lags nor droops."""
    half = int(len(values) * _SMOOTHED_OVER / 2)
    position = np.arange(len(values))
    reach = np.minimum(half, np.minimum(position, len(values) - 1 - position))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    mean: Float[np.ndarray, " points"] = (sums[position + reach + 1] - sums[position - reach]) / (2 * reach + 1)
    return mean
