"""The task ``text``: how well a model predicts documents, by source and by class of token.

Every metric is a ratio of sums over documents. ``bits_per_byte`` is of all tokens, ``bits_per_byte_factual`` and
``bits_per_byte_other`` of those that state facts and the rest, ``bits_per_byte_delegated`` and ``bits_per_byte_kept``
of those where the model would call at the budget that it is served with. Of a model with a helper, the curve says what
calls bring at several budgets. Calibration is kept as sums for each of 15 bins of confidence, from which the expected
calibration error follows for any set of documents (Guo et al. 2017, arXiv:1706.04599, section 2).
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from components.evaluation.evaluate_config import EvaluateStageConfig
from components.evaluation.factuality.predictions import Predictions, predict_each
from components.evaluation.gate.documents import token_sizes
from components.evaluation.gate.reading import Tally, read_documents
from components.evaluation.gate.served import ServedModel
from components.evaluation.score_table import Piece, Score
from components.evaluation.suites import NamedSuite
from components.evaluation.text_models.base import TextModel, TokenScores
from components.evaluation.texts import Text, read_texts
from components.labelling.alignment import Words, factual_tokens
from components.labelling.annotators.choose import choose

TASK = "text"
BINS = 15
CONFIDENCE, ACCURACY = "confidence", "accuracy"
"""Metrics of a bin: mean probability of the likeliest token, and how often it is right."""
CONTINUATION = "continuation"
CURVE_METRICS = ("facts_right", "wasted_calls", "calls")
_PROMPT_WORDS = 8


@runtime_checkable
class Delegating(Protocol):
    """A model that may call: where it would, and who answers."""

    @property
    def name(self) -> str: ...

    @property
    def served(self) -> ServedModel: ...

    def delegated(self, scores: TokenScores) -> Bool[np.ndarray, " tokens"] | None:
        """Where it would call at its budget; ``None`` if it calls no one."""
        ...


def suite(work: Callable[[], "TextWork"]) -> NamedSuite:
    """The suite of the task; ``work`` gathers the texts at first need."""
    return NamedSuite((TASK,), lambda model, tasks, config: pieces(model, work(), config))


@dataclass(frozen=True)
class TextWork:
    """The documents, and which of their words state facts."""

    texts: Sequence[Text]
    words: Callable[[Sequence[str]], list[Words]] | None
    """``None`` if facts are not told apart."""


def pieces(model: TextModel, work: TextWork, config: EvaluateStageConfig) -> dict[str, Piece]:
    """What makes the rows of all documents."""
    cfg = config.evaluate.text
    found: dict[str, Piece] = {}
    for number, part in enumerate(_parts(work.texts, cfg.piece_bytes)):
        found[f"text {number:04d}"] = partial(_scored, model, part, work)
    if isinstance(model, Delegating) and model.served.helper is not None and work.words is not None and cfg.curve_bytes:
        asked = [text for texts in _by_domain(work.texts).values() for text in _first(texts, cfg.curve_bytes)]
        for budget in sorted({*cfg.budgets, model.served.config.budget}):
            found[f"text curve {budget:g}"] = partial(_curve, model, asked, work, budget)
    if cfg.samples:
        found["text samples"] = partial(_continued, model, work.texts[: cfg.samples], cfg.sample_tokens)
    return found


def calibration_error(
    confidence: Mapping[str, tuple[float, float]], accuracy: Mapping[str, tuple[float, float]]
) -> float:
    """Expected calibration error, from the sums (score, weight) of each bin: a share between 0 and 1."""
    total = sum(weight for _, weight in confidence.values())
    return sum(abs(accuracy[name][0] - score) for name, (score, _) in confidence.items()) / total if total else 0.0


def _scored(model: TextModel, texts: Sequence[Text], work: TextWork) -> list[Score]:
    began = time.perf_counter()
    scores = model.token_scores([text.text for text in texts])
    pace = (time.perf_counter() - began) / max(1, sum(len(each.nats) for each in scores))
    words = work.words([text.text for text in texts]) if work.words is not None else [None] * len(texts)
    return [
        row
        for text, each, facts in zip(texts, scores, words, strict=True)
        for row in _rows(model, text, each, facts, pace * len(each.nats))
    ]


def _rows(model: TextModel, text: Text, scores: TokenScores, words: Words | None, seconds: float) -> Iterator[Score]:
    row = partial(Score, model.name, f"{TASK} {text.domain}", text.id)
    bits = scores.nats / math.log(2)
    n_bytes = float(scores.sizes.sum())
    yield row("bits_per_byte", float(bits.sum()), n_bytes, tokens=len(bits), seconds=seconds)
    for name, mask in _classes(model, text, scores, words).items():
        if weight := float(scores.sizes[mask].sum()):
            yield row(f"bits_per_byte_{name}", float(bits[mask].sum()), weight)
    if scores.call.any():
        yield row("call_probability", float(scores.call.sum()), float(len(bits)))
    yield from _reliability(row, scores)


def _classes(
    model: TextModel, text: Text, scores: TokenScores, words: Words | None
) -> dict[str, Bool[np.ndarray, " tokens"]]:
    classes: dict[str, Bool[np.ndarray, " tokens"]] = {}
    if words is not None:
        factual = factual_tokens(text.text, scores.sizes, words)
        classes |= {"factual": factual, "other": ~factual}
    delegated = model.delegated(scores) if isinstance(model, Delegating) else None
    if delegated is not None:
        classes |= {"delegated": delegated, "kept": ~delegated}
    return classes


def _reliability(row: Callable[..., Score], scores: TokenScores) -> Iterator[Score]:
    place = bins(scores.confidence)
    for number in np.unique(place).tolist():
        inside = place == number
        weight, name = float(inside.sum()), f"bin {number + 1:02d}"
        yield row(CONFIDENCE, float(scores.confidence[inside].sum()), weight, name)
        yield row(ACCURACY, float(scores.right[inside].sum()), weight, name)


def bins(confidence: Float[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    """Which of ``BINS`` equal parts of [0, 1] holds each; the upper edge belongs to the lower part."""
    place: Int[np.ndarray, " tokens"] = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return place


def _curve(model: Delegating, texts: Sequence[Text], work: TextWork, budget: float) -> list[Score]:
    """What calls bring on these texts at one budget, the helper really asked; see ``gate.reading``."""
    served = model.served
    began = time.perf_counter()
    asked = replace(served, config=served.config.model_copy(update={"budget": budget}))
    tallies = read_documents(asked, _predictions(served, texts, work))
    seconds = (time.perf_counter() - began) / max(1, len(texts))
    return [
        row
        for text, tally in zip(texts, tallies, strict=True)
        for row in _tally_rows(partial(Score, model.name, f"{TASK} {text.domain}", text.id), tally, budget, seconds)
    ]


def _tally_rows(row: Callable[..., Score], tally: Tally, budget: float, seconds: float) -> Iterator[Score]:
    values = {
        "facts_right": (tally.right, tally.facts),
        "wasted_calls": (tally.wasted, tally.calls),
        "calls": (tally.calls, tally.decisions),
    }
    for name, (score, weight) in values.items():
        if weight:
            cost = {"calls": tally.calls, "seconds": seconds} if name == "calls" else {}
            yield row(name, float(score), float(weight), f"budget {budget:.3f}", **cost)


def _predictions(served: ServedModel, texts: Sequence[Text], work: TextWork) -> list[Predictions]:
    assert work.words is not None
    spelled = [text.text for text in texts]
    ids = [np.asarray(each) for each in served.tokenizer.encode_batch(spelled)]
    factual = [
        factual_tokens(text, token_sizes(served.tokenizer, each), words)
        for text, each, words in zip(spelled, ids, work.words(spelled), strict=True)
    ]
    return predict_each(served.model, served.tokenizer, ids, factual)


def _continued(model: TextModel, texts: Sequence[Text], max_tokens: int) -> list[Score]:
    prompts = [" ".join(text.text.split(" ")[:_PROMPT_WORDS]) for text in texts]
    penalty = model.served.presence_penalty if isinstance(model, Delegating) else 0.0
    began = time.perf_counter()
    written = model.write(prompts, max_tokens, presence_penalty=penalty)
    seconds = (time.perf_counter() - began) / max(1, len(texts))
    return [
        Score(
            model.name,
            f"{TASK} {text.domain}",
            text.id,
            CONTINUATION,
            float(answer.tokens),
            format=CONTINUATION,  # it was put otherwise than for its likelihood, and costs apart
            tokens=answer.tokens,
            calls=answer.calls,
            seconds=seconds,
            detail=json.dumps({"prompt": prompt, "written": answer.text}, ensure_ascii=False),
        )
        for text, prompt, answer in zip(texts, prompts, written, strict=True)
    ]


def _parts(texts: Sequence[Text], n_bytes: int) -> Iterator[list[Text]]:
    part: list[Text] = []
    size = 0
    for text in texts:
        part.append(text)
        size += len(text.text.encode())
        if size >= n_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


def _by_domain(texts: Sequence[Text]) -> dict[str, list[Text]]:
    domains: dict[str, list[Text]] = {}
    for text in texts:
        domains.setdefault(text.domain, []).append(text)
    return domains


def _first(texts: Sequence[Text], n_bytes: int) -> list[Text]:
    return next(_parts(texts, n_bytes), [])


def gathered(config: EvaluateStageConfig, folder: Path, held_out: bool) -> TextWork:
    """Read the sources of ``config``; what must be made or fetched for it goes to ``folder``."""
    texts, documents = read_texts(config, folder, held_out)
    if not config.evaluate.text.facts:
        return TextWork(texts, None)
    annotator, _ = choose(config.label, documents).open()
    return TextWork(texts, lambda spelled: [each.words for each in annotator.annotate(spelled)])
