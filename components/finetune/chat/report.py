"""The report of the stage ``converse``, for the page of markdown and that of HTML."""

from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib.figure import Figure

from components.evaluation.curve import FIGURE_STYLE, INK
from components.evaluation.report_page import Picture, Sample, Section, Table, Words, svg
from components.evaluation.results import Interval
from components.finetune.chat.results import ConverseResults, Said, Standing

_SHOWN = 6


def title(results: ConverseResults) -> str:
    alone, asked = results.at(0.0), results.at(results.budget)
    if alone.right is None or asked.right is None:
        return f"{alone.well_formed.estimate:.1%} of the answers are well formed"
    return f"{alone.right.estimate:.1%} of the questions answered alone, {asked.right.estimate:.1%} with a helper"


def report(results: ConverseResults, answers: Sequence[Said]) -> Iterator[Section]:
    """What people read: the answers in numbers, what calls are worth, what was forgotten, and examples."""
    yield Section("What it answers", [Words(_how_to_read(results)), _standings(results)])
    if results.at(0.0).right is not None:
        yield Section("What asking is worth", [_picture(results)])
    before, after = results.forgetting
    change = f"{before:.4f} before, {after:.4f} after: {results.forgetting.growth:+.2%}."
    yield Section("What it has forgotten", [Words(f"Bits per byte of held-out text of the pretraining: {change}")])
    yield Section("Examples", list(_examples(results, answers)))


def _how_to_read(results: ConverseResults) -> str:
    learnt = "it has learnt when to ask" if results.asks else "it was never taught to ask, so it calls where it doubts"
    return (
        "Every question is one that no training conversation asked. An answer is well formed if it ends by itself, is "
        "not empty and holds no special token; right if it states the value that was asked for; wrong if it states "
        f"something that is not true. Calls are answered by {results.helper}: {learnt}. Intervals cover "
        f"{results.confidence:.0%} of the resamples."
    )


def _standings(results: ConverseResults) -> Table:
    header = ["", "call budget", "calls", "answers", "well formed", "right", "wrong"]
    return Table(header, [_row(standing) for standing in results.standings])


def _row(standing: Standing) -> list[str]:
    return [
        standing.model,
        f"{standing.budget:.0%}",
        f"{standing.calls:.1%}",
        f"{standing.answers:,}",
        _shown(standing.well_formed),
        _shown(standing.right),
        _shown(standing.wrong),
    ]


def _shown(share: Interval | None) -> str:
    if share is None:
        return "-"
    return f"{100 * share.estimate:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _picture(results: ConverseResults) -> Picture:
    measured = [each for each in results.standings if each.model == results.at(0.0).model]
    base = results.standings[0]
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        budgets = [100 * each.budget for each in measured]
        for name, colour, mark in (("right", "#3c8d5a", "o"), ("wrong", "#c23a5c", "s")):
            shares = [100 * getattr(each, name).estimate for each in measured]
            axes.plot(budgets, shares, marker=mark, color=colour, label=name)
            if (of_base := getattr(base, name)) is not None:
                axes.axhline(100 * of_base.estimate, color=colour, linestyle=":", label=f"{name}, {base.model}")
        axes.axvline(100 * results.budget, color=INK, linewidth=0.8, alpha=0.4)
        axes.set_xlabel("call budget (% of the decisions)")
        axes.set_ylabel("answers (%)")
        axes.set_ylim(0, 100)
        axes.legend(frameon=False)
        return Picture(svg(figure, "conversing"), "Right and wrong answers over the call budget")


def _examples(results: ConverseResults, answers: Sequence[Said]) -> Iterator[Sample]:
    mine = [answer for answer in answers if answer.model == results.at(0.0).model]
    alone = [answer for answer in mine if answer.budget == 0.0]
    asked = [answer for answer in mine if answer.budget == results.budget]
    step = max(1, len(alone) // _SHOWN)
    for one, other in list(zip(alone, asked, strict=True))[::step][:_SHOWN]:
        expected = f"\nexpected: {one.expected}" if one.expected else ""
        yield Sample(one.question, f"alone: {one.text}\nwith calls: {other.text}{expected}")
