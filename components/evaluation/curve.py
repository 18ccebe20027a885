"""The loss curves of a model's trainings as one chart: loss above, learning rate below, over optimizer steps."""

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
History = Sequence[Mapping[str, float]]

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


def draw_loss_curves(histories: Mapping[str, History], title: str, paths: Sequence[Path]) -> None:
    """Draw the rows of each ``history.jsonl`` into every path, in the format of its suffix (``.svg``, ``.png``).

    Args:
        histories: the trainings by name, in order; each goes on where the one before it has ended. Training rows have
            ``step``, ``loss``, ``learning_rate``; validation rows ``step``, ``validation_loss``. At least one training
            row is needed in each.
        title: what the chart says of the model.
        paths: where to write it.
    """
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        first_step = 0.0
        for name, history in histories.items():
            _draw_loss(loss, history, first_step, labelled=not first_step)
            _draw_learning_rate(rate, history, first_step)
            last_step = first_step + max(row["step"] for row in history)
            _name_training(loss, name, first_step, last_step)
            first_step = last_step
        loss.set_ylabel("loss (nats per token)")
        loss.legend(frameon=False, loc="center right")  # the names of the trainings stand above
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


def _draw_loss(axes: Axes, history: History, first_step: float, labelled: bool) -> None:
    step, loss = _series(history, "loss")
    smooth = _smoothed(loss)
    axes.plot(first_step + step, loss, color=_BLUE, alpha=0.3, linewidth=1)
    axes.plot(first_step + step, smooth, color=_BLUE, linewidth=2, label="training, smoothed" if labelled else None)
    validation_step, validation = _series(history, "validation_loss")
    if len(validation):
        label = "validation" if labelled else None
        validation_step = first_step + validation_step
        axes.plot(validation_step, validation, "o-", color=_ORANGE, linewidth=1.2, markersize=4.5, label=label)
        axes.annotate(
            f"{validation[-1]:.3f}",
            (validation_step[-1], validation[-1]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right",
            color=_ORANGE,
            fontweight="bold",
        )


def _draw_learning_rate(axes: Axes, history: History, first_step: float) -> None:
    step, learning_rate = _series(history, "learning_rate")
    axes.plot(first_step + step, learning_rate, color=_GREY, linewidth=1.5)
    axes.fill_between(first_step + step, learning_rate, color=_GREY, alpha=0.15, linewidth=0)


def _name_training(axes: Axes, name: str, first_step: float, last_step: float) -> None:
    """Write the name of a training above its steps, and a line between it and the one before."""
    if first_step:
        axes.axvline(first_step, color=_GREY, linestyle="--", linewidth=1)
    label = axes.text(
        (first_step + last_step) / 2,
        0.98,
        name,
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="top",
        color=INK,
        fontweight="bold",
        clip_on=True,
    )
    label.set_in_layout(False)  # with a single step the middle lies outside of the axes


def _series(history: History, name: str) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
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
