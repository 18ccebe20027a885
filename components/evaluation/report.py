"""The one-page report on a model in markdown. Light: the flow's process embeds its image to show it in Prefect."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.artifact import REPORT, Artifact
from components.core.durations import duration
from components.evaluation.artifacts import Scores
from components.evaluation.results import Answer, ExactMatch, Interval, Results

_ANSWERS_SHOWN = 3  # right ones, and as many wrong ones
_SOURCES_SHOWN = 3
_MARKDOWN_SIGNS = re.compile(r"([\\`*_{}\[\]#|~])")

Row = tuple[str, str]


def report_markdown(results: Results, trainings: Mapping[str, Artifact], prepared: Artifact, image: str) -> str:
    """The report on a model.

    Args:
        results: what was measured.
        trainings: the artifacts of its trainings by their names, in order; the last one holds the model.
        prepared: the data that it was trained on.
        image: where the loss curve is found: a relative path or a data URI.
    """
    sections = [
        "# How good the model is",
        _verdict(results, trainings),
        _table("On text it has not seen", _scores(results)),
        f"![Loss over the optimizer steps of each training, with the learning rate below]({image})",
        _table("How it was made", _origin(trainings, prepared)),
        _answers(results.answers),
        _samples(results),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def embedded_image(folder: Path) -> str:
    """The report in ``folder`` with its image embedded, for viewers that cannot follow relative paths."""
    curve = Scores.CURVE_PNG
    encoded = base64.b64encode((folder / curve).read_bytes()).decode()
    return (folder / REPORT).read_text(encoding="utf-8").replace(f"({curve})", f"(data:image/png;base64,{encoded})")


def _verdict(results: Results, trainings: Mapping[str, Artifact]) -> str:
    tokens = {name: training.metrics["tokens"] for name, training in trainings.items()}
    parameters = list(trainings.values())[-1].metrics["parameters"]
    of_each = ", ".join(f"{short(count)} in {name}" for name, count in tokens.items())
    sentence = (
        f"A model of **{short(parameters)} parameters**, trained on **{short(sum(tokens.values()))} tokens**"
        f" ({of_each}), needs **{results.bits_per_byte.estimate:.3f} bits per byte** for text it has not seen"
    )
    if all_questions := results.exact_match.get("all"):
        sentence += (
            f" and answers **{all_questions.share.estimate:.1%}** of {all_questions.questions:,} questions exactly"
        )
    return sentence + "."


def _scores(results: Results) -> Iterable[Row]:
    low, high = results.bits_per_byte[1:]
    sure = f"{results.confidence * 100:g} % interval"
    yield "Bits per byte", f"**{results.bits_per_byte.estimate:.4f}** ({sure} {low:.4f} to {high:.4f})"
    yield "Perplexity", f"{results.perplexity:,.2f} per token"
    yield (
        "Scored on",
        f"{results.documents:,} documents, {short(results.bytes)} bytes, {results.predictions:,} predictions",
    )
    yield "Probability of `<CALL>`", f"{results.call_probability:.2e} on average, taken out of the softmax"
    names = {"all": "Questions answered exactly", "head": "– facts stated often", "tail": "– facts stated rarely"}
    for part, name in names.items():
        if part in results.exact_match:
            yield name, _share(results.exact_match[part], sure)


def _share(match: ExactMatch, sure: str) -> str:
    share: Interval = match.share
    return f"**{share.estimate:.1%}** of {match.questions:,} ({sure} {share.low:.1%} to {share.high:.1%})"


def _origin(trainings: Mapping[str, Artifact], prepared: Artifact) -> Iterable[Row]:
    train = prepared.details["splits"]["train"]
    yield "Sources", _sources([source["source"] for source in prepared.details["sources"]])
    yield "Text", f"{train['documents']:,} documents, {short(train['bytes'])} bytes, {short(train['tokens'])} tokens"
    yield "Vocabulary", f"{prepared.details['vocab_size']:,} tokens"
    for name, training in trainings.items():
        yield name.capitalize(), _training(training.metrics)
        yield f"Speed of {name}", _speed(training)
    details = list(trainings.values())[-1].details
    yield "Arithmetic", f"{details['precision']} on {details['device']}"
    for operation, implementation in details["ops"].items():
        yield operation.replace("_", " ").capitalize(), str(implementation)


def _training(metrics: Mapping[str, float]) -> str:
    return (
        f"{metrics['steps']:,.0f} steps over {short(metrics['tokens'])} tokens in {duration(metrics['seconds'])};"
        f" loss {metrics['loss']:.3f}, validation {metrics['validation_loss']:.3f} nats per token"
    )


def _speed(training: Artifact) -> str:
    metrics, peak = training.metrics, training.details["peak"]
    return f"{metrics['tokens_per_second']:,.0f} tokens/s, {metrics['mfu']:.1%} of the peak ({peak})"


def _sources(names: Sequence[str]) -> str:
    shown = ", ".join(plain_text(name) for name in names[:_SOURCES_SHOWN])
    return f"{shown} and {len(names) - _SOURCES_SHOWN:,} more" if len(names) > _SOURCES_SHOWN else shown


def _answers(answers: Sequence[Answer]) -> str:
    if not answers:
        return ""
    right = _spread([answer for answer in answers if answer.correct], _ANSWERS_SHOWN)
    wrong = _spread([answer for answer in answers if not answer.correct], _ANSWERS_SHOWN)
    lines = ["| Prompt | Expected | The model wrote | Stated | |", "|---|---|---|---:|---|"]
    for answer in [*right, *wrong]:
        cells = plain_text(answer.prompt), plain_text(answer.expected), plain_text(answer.written), f"{answer.stated:,}"
        lines.append(f"| {' | '.join(cells)} | {'right' if answer.correct else 'wrong'} |")
    return "\n".join(["## Some answers", "", *lines])


def _spread(answers: Sequence[Answer], count: int) -> list[Answer]:
    """At most ``count`` of them, evenly spread: questions come with the most popular subjects first."""
    if len(answers) <= count:
        return list(answers)
    return [answers[i * (len(answers) - 1) // (count - 1)] for i in range(count)]


def _samples(results: Results) -> str:
    if not results.samples:
        return ""
    lines = ["| Held-out text begins | the model goes on | the text went on |", "|---|---|---|"]
    for sample in results.samples:
        lines.append(
            f"| {plain_text(sample.prompt)} | {plain_text(sample.continuation)} | {plain_text(sample.original)} |"
        )
    return "\n".join(["## Samples", "", *lines])


def _table(title: str, rows: Iterable[Row]) -> str:
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def plain_text(text: Any) -> str:
    """``text`` as one escaped line of markdown, because the corpus and the model may write anything."""
    return _MARKDOWN_SIGNS.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def short(number: float) -> str:
    """A number as a person says it: 1.97 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"
