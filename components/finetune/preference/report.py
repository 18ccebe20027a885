"""The report of preference tuning, for the page of markdown and that of HTML."""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from components.evaluation.curve import FIGURE_STYLE, INK
from components.evaluation.report_page import Picture, Section, Table, Words, svg
from components.evaluation.results import Interval
from components.finetune.preference.results import PreferenceResults, ScoredPair

TITLE = "Which answers the model prefers"
_BLUE, _ORANGE = "#2563a8", "#d9622b"
_WANTED_OVER_LONGER, _ALLOWED_GROWTH = 0.10, 0.02


def report(
    results: PreferenceResults, compared: Sequence[ScoredPair], history: Sequence[Mapping[str, float]], examples: int
) -> Iterator[Section]:
    """What people read: the verdict in words, the shares, the price, the training, and pairs that changed."""
    yield Section("What came of it", [Words(_verdict(results)), _shares(results), _margins(compared)])
    yield Section("What it cost", [_price(results)])
    yield Section("Training", [_training(history)])
    yield Section("Pairs on which the model has changed most", [_examples(compared, examples)])


def _verdict(results: PreferenceResults) -> str:
    over, low, _ = results.over_longer_wins
    goal = "reached" if over >= _WANTED_OVER_LONGER else "missed"
    growth = "kept" if results.bits_per_byte_change <= _ALLOWED_GROWTH else "broken"
    gain, gain_low, gain_high = results.over_base
    learnt = "It learnt this here" if gain_low > 0 else "It did not learn this here" if gain_high < 0 else (
        "Whether it learnt this here or knew it before cannot be told from these pairs"
    )  # fmt: skip
    return (
        f"On {results.pairs:,} held-out pairs about {results.groups:,} prompts or subjects, the model finds the chosen "
        f"answer likelier in {results.accuracy.estimate:.1%}: {over * 100:+.1f} points over preferring the longer "
        f"answer (at least {low * 100:+.1f}), so the goal of {_WANTED_OVER_LONGER * 100:+.0f} points is {goal}. "
        f"{learnt}: its base has {results.base_accuracy.estimate:.1%} ({gain * 100:+.1f} points). Bits per byte of "
        f"held-out text changed by {results.bits_per_byte_change:+.1%}; the limit of {_ALLOWED_GROWTH:+.0%} is "
        f"{growth}."
    )


def _shares(results: PreferenceResults) -> Table:
    rows = [
        _share("the model", results.accuracy),
        _share("its base", results.base_accuracy),
        _share("the longer answer wins", results.longer_wins),
        _share("the model, measured by how much it has moved (reward)", results.reward_accuracy),
    ]
    return Table(["who chooses", "right, %", f"interval of {results.confidence:.0%}"], rows)


def _share(name: str, share: Interval) -> list[str]:
    return [name, f"{share.estimate * 100:.1f}", f"{share.low * 100:.1f} to {share.high * 100:.1f}"]


def _margins(compared: Sequence[ScoredPair]) -> Picture:
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 3), layout="constrained")
        axes = figure.subplots()
        values = [[each.base_margin for each in compared], [each.margin for each in compared]]
        axes.hist(values, bins=30, label=["base", "model"], color=[_ORANGE, _BLUE])
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel("nats by which the chosen answer is likelier")
        axes.set_ylabel("pairs")
        axes.legend(frameon=False)
        return Picture(svg(figure, "margins"), "To the right of zero the chosen answer is likelier")


def _price(results: PreferenceResults) -> Table:
    rows = [
        ["bits per byte", f"{results.base_bits_per_byte:.4f}", f"{results.bits_per_byte:.4f}"],
        ["mean probability of a call", f"{results.base_call_probability:.4f}", f"{results.call_probability:.4f}"],
    ]
    return Table(["on held-out text", "base", "model"], rows)


def _training(history: Sequence[Mapping[str, float]]) -> Table:
    rows = [
        [
            f"{row['step']:.0f}",
            f"{row['validation_loss']:.4f}",
            f"{row['preference_accuracy'] * 100:.1f}",
            f"{row['gain']:.2f}",
        ]
        for row in history
        if "preference_accuracy" in row
    ]
    return Table(["step", "loss, validation", "right, %", "margin gained, nats"], rows)


def _examples(compared: Sequence[ScoredPair], count: int) -> Table:
    moved = sorted(compared, key=lambda each: each.base_margin - each.margin)
    rows = [
        [
            each.pair.prompt[-1]["content"],
            each.pair.chosen,
            each.pair.rejected,
            f"{each.base_margin:+.2f}",
            f"{each.margin:+.2f}",
        ]
        for each in [*moved[:count], *moved[-count:]]
    ]
    return Table(["prompt", "chosen", "rejected", "base", "model"], rows)
