"""The stage ``sweep``: the trials of a sweep as a report, the best setting first."""

from collections.abc import Iterator

import matplotlib
from matplotlib.figure import Figure

from components.core.acceptance import accepted_section
from components.core.artifact import REPORT, Rows
from components.core.atomic import write_text
from components.core.errors import InputError
from components.core.run import Run
from components.evaluation.curve import FIGURE_STYLE
from components.evaluation.report_page import Picture, Section, Table, Words, markdown, page, svg
from components.evaluation.results import Interval
from components.evaluation.seeds import seed_interval
from components.evaluation.sweep.artifact import Sweep
from components.evaluation.sweep.config import SweepReportConfig, Trial

TITLE = "Settings side by side"
_COLOURS = {"complete": "#2563a8", "stopped": "#8a8f98", "failed": "#c23a5c"}
_BEST = "#d9622b"


def stage(run: Run, config: SweepReportConfig) -> Sweep:
    """Metrics: the best value, and the mean and the half of the interval over the seeds, if there are any.

    Raises ``InputError`` if no trial has come to its end.
    """
    if not any(trial.state == "complete" for trial in config.trials):
        raise InputError(
            f"none of the {len(config.trials)} trials came to its end: narrow sweep.space, or see the errors above"
        )
    parts = list(_sections(config))
    write_text(run.folder / Sweep.PAGE, page(TITLE, parts))
    write_text(run.folder / REPORT, markdown(TITLE, parts) + accepted_section(run.accepted))
    assert config.best.value is not None
    metrics = {
        "best": config.best.value,
        "trials": float(len(config.trials)),
        "stopped": float(_count(config, "stopped")),
    }
    if config.seeds:
        interval = _over_seeds(config)
        metrics |= {"seeds_mean": interval.estimate}
        if len(config.seeds) > 1:
            metrics |= {"seeds_half_interval": interval.high - interval.estimate}
    run.log(metrics, None)
    run.report(1.0, f"{len(config.trials)} trials")
    return run.seal(metrics, {"settings": config.best.settings}, _rows(config), view=Sweep)


def _sections(config: SweepReportConfig) -> Iterator[Section]:
    yield Section("In short", [Words(_in_short(config)), Picture(svg(_curves(config), "trials"), _shown(config))])
    keys = list(config.best.settings)
    rows = [
        [
            str(trial.number),
            *(_setting(trial.settings[key]) for key in keys),
            _value(trial),
            str(max(trial.curve, default=0)),
            trial.state,
        ]
        for trial in sorted(config.trials, key=lambda trial: _order(config, trial))
    ]
    yield Section("Trials", [Table(["trial", *keys, config.metric, "last step", ""], rows)])
    if config.seeds:
        seeds = [[str(seed), f"{value:.4f}"] for seed, value in config.seeds.items()]
        yield Section("The best setting over seeds", [Table(["seed", config.metric], seeds)])


def _in_short(config: SweepReportConfig) -> str:
    settings = ", ".join(f"{key}={_setting(value)}" for key, value in config.best.settings.items())
    words = f"Of {len(config.trials)} settings, {_count(config, 'stopped')} were stopped early and "
    words += f"{_count(config, 'failed')} failed. The best is {settings}: {config.metric} {config.best.value:.4f}."
    if not config.seeds:
        return words
    found = _over_seeds(config)
    over = f" With {len(config.seeds)} seeds it comes to {found.estimate:.4f}"
    if len(config.seeds) > 1:
        over += f" ({config.confidence:.0%} interval {found.low:.4f} to {found.high:.4f})"
    return f"{words}{over}: the best of several trials is partly luck, and this is without it."


def _over_seeds(config: SweepReportConfig) -> Interval:
    return seed_interval(list(config.seeds.values()), config.confidence)


def _shown(config: SweepReportConfig) -> str:
    return f"{config.metric} of every trial over optimizer steps; orange is the best, grey those that were stopped"


def _curves(config: SweepReportConfig) -> Figure:
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for trial in config.trials:
            best = trial.number == config.best.number
            colour = _BEST if best else _COLOURS[trial.state]
            axes.plot(
                list(trial.curve), list(trial.curve.values()), marker="o", markersize=3, color=colour,
                linewidth=2.2 if best else 1.0, zorder=3 if best else 2,
            )  # fmt: skip
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(config.metric)
    return figure


def _rows(config: SweepReportConfig) -> Rows:
    best = config.best
    rows = [
        ("trials", f"{len(config.trials)}, {_count(config, 'stopped')} stopped early"),
        ("best setting", ", ".join(f"{key}={_setting(value)}" for key, value in best.settings.items())),
        (config.metric, f"{best.value:.4f}"),
    ]
    if len(config.seeds) > 1:
        found = _over_seeds(config)
        rows.append((f"over {len(config.seeds)} seeds", f"{found.estimate:.4f} ± {found.high - found.estimate:.4f}"))
    return rows


def _count(config: SweepReportConfig, state: str) -> int:
    return sum(trial.state == state for trial in config.trials)


def _order(config: SweepReportConfig, trial: Trial) -> tuple[int, float]:
    """Whole trials first, the best of them at the top."""
    sign = 1 if config.better == "lower" else -1
    return list(_COLOURS).index(trial.state), sign * (trial.value or 0.0)


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(trial: Trial) -> str:
    return "" if trial.value is None else f"{trial.value:.4f}"
