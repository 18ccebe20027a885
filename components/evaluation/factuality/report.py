"""The report on a cascade, in markdown. Light: the flow's process embeds its image to show it in Prefect."""

import base64
import html
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from components.core.artifact import REPORT
from components.core.durations import duration
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.evaluation.factuality.results import CascadeResults, CurvePoint, HelperAccuracy, ModelResults, Written
from components.evaluation.report import plain_text, short
from components.evaluation.results import Interval

TEXTS_SHOWN = 5
# Colours for who wrote what: readable on white and on the dark page of Prefect.
_MARKS = {"given": "color:#8a8f98", "small": "", "helper": "background:#f6c24455;border-bottom:2px solid #d9822b"}
_KEY = (
    f'<span style="{_MARKS["given"]}">given</span>, written by the small model, '
    f'<span style="{_MARKS["helper"]}">by the helper</span>; a false statement is <s>struck through</s>.'
)


class Text(Protocol):
    """What is shown of a written document."""

    @property
    def text(self) -> str: ...
    @property
    def authors(self) -> list[tuple[int, int, str]]: ...
    @property
    def claims(self) -> list[tuple[int, int, str, str, bool]]: ...


def embedded_report(folder: Path) -> str:
    """The report in ``folder`` with its pictures inside, readable where relative paths lead nowhere."""
    page = (folder / REPORT).read_text(encoding="utf-8")
    for name in (CascadeAssessment.CURVE_PNG, CascadeAssessment.TEXTS_PNG):
        if (folder / name).exists():
            encoded = base64.b64encode((folder / name).read_bytes()).decode()
            page = page.replace(f"({name})", f"(data:image/png;base64,{encoded})")
    return page


def cascade_report(results: CascadeResults, texts: Sequence[Text], image: str, real_text: Sequence[str] = ()) -> str:
    """The report; ``image`` is where the curve is found, ``real_text`` the sections about real entities, if any."""
    sections = [
        "# What asking is worth",
        _verdict(results),
        f"![Facts right over the call budget, and calls wasted on non-facts]({image})",
        _budgets(results),
        _written(results),
        _language(results),
        *real_text,
        _texts(texts),
        _cost(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(results: CascadeResults) -> str:
    model, point = results.model, results.model.at_budget
    alone = model.curve[0].accuracy
    sentence = (
        f"Asking at **{point.budget:.0%}** of the tokens, **{point.accuracy:.1%}** of the factual tokens of held-out "
        f"text come out right, {alone:.1%} without asking. Calls placed exactly where a fact would be wrong would give "
        f"{point.bound:.1%}: **{model.gain_of_bound:.0%} of the possible gain** was reached, and {point.wasted:.1%} of "
        "the calls went to tokens that state no fact."
    )
    if model.alone and model.cascade and model.alone.precision and model.cascade.precision:
        sentence += (
            f" Of what the model writes itself, **{_share(model.cascade.precision)}** of the stated facts are true "
            f"with the helper ({results.helper}), {_share(model.alone.precision)} alone."
        )
    return sentence


def _budgets(results: CascadeResults) -> str:
    plain = {point.budget: point for point in results.plain.curve} if results.plain else {}
    header = ["calls", "facts right", "bound", "calls on non-facts", "calls where the model was wrong"]
    if plain:
        header.append("plain model, calling where it doubts")
    rows = [
        [*_point(point), *([f"{plain[point.budget].accuracy:.1%}"] if plain else [])] for point in results.model.curve
    ]
    looked = f"{results.positions:,} held-out tokens, {results.factual_share:.1%} of them factual."
    title = f"## By call budget\n\n{looked}\n\n"
    return title + table(header, rows)


def _point(point: CurvePoint) -> list[str]:
    spent = point.budget > 0
    return [
        f"{point.budget:.0%}",
        f"**{point.accuracy:.1%}**",
        f"{point.bound:.1%}",
        f"{point.wasted:.1%}" if spent else "–",
        f"{point.precision:.1%}" if spent else "–",
    ]


def _written(results: CascadeResults) -> str:
    rows = []
    for name, model in _models(results):
        for way, written in (("alone", model.alone), ("with calls", model.cascade)):
            if written is not None:
                rows.append([f"{name}, {way}", *_cells(written)])
    if not rows:
        return ""
    header = [
        "written by",
        "facts true",
        "facts of the subject told",
        "claims per text",
        "calls",
        "tokens by the helper",
        "read by the judge",
    ]
    sure = (
        f"Exact: every claim is looked up in the fact table. Intervals of {results.confidence:.0%} over the subjects."
    )
    return f"## Biographies, fact by fact\n\n{sure}\n\n{table(header, rows)}"


def _cells(written: Written) -> list[str]:
    return [
        _interval(written.precision) if written.precision else "–",
        _interval(written.recall),
        f"{written.claims:.1f}",
        f"{written.calls:.1%}",
        f"{written.helper_tokens:.1%}",
        f"{written.understood:.0%} of sentences",
    ]


def _language(results: CascadeResults) -> str:
    header = [
        "",
        "bits per byte: all",
        "factual tokens",
        "other tokens",
        "finds wrong facts (AUROC)",
        "answers alone (leakage)",
    ]
    rows = [
        [
            name,
            *(
                f"{model.bits_per_byte[subset]:.4f}" if subset in model.bits_per_byte else "–"
                for subset in ("all", "factual", "other")
            ),
            f"{model.auroc_wrong_fact:.3f}",
            "–" if model.leakage is None else f"{model.leakage:.1%}",
        ]
        for name, model in _models(results)
    ]
    return f"## What it kept, and what it gave away\n\n{table(header, rows)}"


def _texts(texts: Sequence[Text]) -> str:
    if not texts:
        return ""
    page = CascadeAssessment.TEXTS
    key = (
        "Grey: given. Plain: written by the small model. Highlighted: by the helper. Struck through: a false "
        f"statement. All of them: [{page}]({page})."
    )
    return "\n\n".join(["## Who wrote what", key, f"![Who wrote what]({CascadeAssessment.TEXTS_PNG})"])


def texts_page(texts: Sequence[Text]) -> str:
    """All texts as an HTML page with colours, for viewers that strip colours from markdown."""
    paragraphs = "\n".join(f"<p>{_highlighted(text)}</p>" for text in texts)
    style = "font:15px/1.7 system-ui,sans-serif;max-width:48em;margin:2em auto;padding:0 1em;color:#2b2f36"
    return (
        f'<!doctype html>\n<meta charset="utf-8">\n<title>Who wrote what</title>\n<body style="{style}">\n'
        f"<h1>Who wrote what</h1>\n<p>{_KEY}</p>\n{paragraphs}\n</body>\n"
    )


def _highlighted(text: Text) -> str:
    """The text with a colour for each author and its false claims struck through; paragraphs on one line."""
    false = [claim[:2] for claim in text.claims if not claim[4]]
    borders = sorted(
        {0, len(text.text), *(at for span in text.authors for at in span[:2]), *(at for span in false for at in span)}
    )
    pieces = []
    for start, end in pairwise(borders):
        author = next((author for first, last, author in text.authors if first <= start < last), "small")
        piece = html.escape(text.text[start:end].replace("\n", " "), quote=False)
        if any(first <= start and end <= last for first, last in false):
            piece = f"<s>{piece}</s>"
        pieces.append(f'<span style="{_MARKS[author]}">{piece}</span>' if _MARKS[author] else piece)
    return "".join(pieces)


def _cost(results: CascadeResults) -> str:
    cost, asked = results.cost, results.helper_accuracy
    rows = [
        ["Annotation", f"{duration(cost.annotation_seconds)} of one core, once"],
        [
            "Training",
            f"{duration(cost.training_seconds)} over {short(cost.tokens_forward)} tokens: {short(cost.tokens_gt_grad)} "
            f"learnt from the text, {short(cost.tokens_call_grad)} learnt to ask for",
        ],
        [
            "A call",
            f"{1000 * asked.seconds:.1f} ms (median of {asked.calls} at gold text): {asked.right:.0%} are "
            f"what the text goes on with, {asked.empty:.0%} get no answer, {asked.failed:.0%} fail{_hidden(asked)}",
        ],
        *_fact_calls(asked),
        [
            "Chosen by",
            plain_text(f"{results.selection}, softmax {results.normalisation}, equal {results.match}"),
        ],
    ]
    return f"## What it cost\n\n{table(['', ''], rows)}"


def _hidden(asked: HelperAccuracy) -> str:
    if asked.right_without_document is None:
        return ""
    return f"; {asked.right_without_document:.0%} are right where it may not look up the document itself"


def _fact_calls(asked: HelperAccuracy) -> Iterable[list[str]]:
    for what, found in (
        ("Calls at facts", asked.facts),
        ("– own document not in the library", asked.facts_without_document),
    ):
        if found is not None:
            yield [what, f"{found.calls} of these: {found.right:.0%} right, {found.answered:.0%} answered"]


def _models(results: CascadeResults) -> Iterable[tuple[str, ModelResults]]:
    yield "taught to ask", results.model
    if results.plain:
        yield "plain", results.plain


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(interval: Interval) -> str:
    return f"{interval.estimate:.1%}"


def _interval(interval: Interval) -> str:
    return f"**{interval.estimate:.1%}** ({interval.low:.1%} to {interval.high:.1%})"
