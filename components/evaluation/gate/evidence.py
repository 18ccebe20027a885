"""What a served model does on held-out text and in its own, example by example.

Every metric is a ratio of sums over examples (documents, questions, texts), so that two models can be compared on the
same examples and the examples be drawn again.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from components.cascade.decoding import CascadeAnswer, CascadeRequest
from components.data.world.comprehension import World
from components.evaluation.config import GateConfig
from components.evaluation.factuality.generated import judged, subjects
from components.evaluation.factuality.predictions import Predictions, predict_each
from components.evaluation.gate.documents import Document, token_sizes
from components.evaluation.gate.reading import read_documents
from components.evaluation.gate.served import ServedModel
from components.evaluation.questions import Question, answer_questions, mentions
from components.model.generate import text_sampling

_PROMPT_WORDS = 8

Report = Callable[[float], None]
Column = Float[np.ndarray, " examples"]


@dataclass(frozen=True)
class Measure:
    """One metric of one model: sum(numerator) / sum(denominator) over its examples."""

    examples: tuple[str, ...]
    numerator: Column
    denominator: Column
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Of examples that tell against the model, in words: why."""

    @property
    def value(self) -> float | None:
        """``None`` where there was nothing to measure, such as wasted calls of a model that makes none."""
        total = self.denominator.sum()
        return float(self.numerator.sum() / total) if total > 0 else None


Evidence = Mapping[str, Measure]
"""By the name of the metric; one that does not apply to the model or the data is left out."""


def measure(
    served: ServedModel,
    documents: Sequence[Document],
    questions: Sequence[Question],
    world: World | None,
    cfg: GateConfig,
    report: Report,
) -> Evidence:
    """Everything that the gate can judge, under the autocast that the caller has set.

    Arguments:
        served: the model with its helper.
        documents: held-out text, the same for both models.
        questions: for leakage; none where the data has none.
        world: checks what the model writes; ``None`` where facts cannot be looked up.
        cfg: how much is measured.
        report: called with the fraction done.
    """
    read = _read(served, documents, cfg.batch_tokens, lambda share: report(0.5 * share))
    asked = [number for number, document in enumerate(documents) if document.asked]
    evidence = _likelihood(documents, read)
    evidence |= _facts(
        served, [documents[number].name for number in asked], [read[number] for number in asked], cfg.price_per_call
    )
    report(0.75)
    evidence |= _written(served, documents, world, cfg)
    report(0.95)
    return evidence | _leakage(served, questions)


def _read(served: ServedModel, documents: Sequence[Document], batch_tokens: int, report: Report) -> list[Predictions]:
    """The predictions of each document, its boundary included."""
    ids = [np.asarray(each) for each in served.tokenizer.encode_batch([document.text for document in documents])]
    factual = [
        document.factual_tokens(token_sizes(served.tokenizer, each))
        for document, each in zip(documents, ids, strict=True)
    ]
    return predict_each(served.model, served.tokenizer, ids, factual, batch_tokens, report)


def _likelihood(documents: Sequence[Document], read: Sequence[Predictions]) -> dict[str, Measure]:
    names = tuple(document.name for document in documents)
    bits = [predictions.nats / math.log(2) for predictions in read]
    other = [~predictions.factual for predictions in read]
    return {
        "bits_per_byte": Measure(
            names, _sums(bits), np.array([len(document.raw) for document in documents], dtype=np.float64)
        ),
        "bits_per_byte_other": Measure(
            names,
            _sums(each[mask] for each, mask in zip(bits, other, strict=True)),
            _sums(each.bytes[mask] for each, mask in zip(read, other, strict=True)),
        ),
    }


def _facts(served: ServedModel, names: Sequence[str], read: Sequence[Predictions], price: float) -> dict[str, Measure]:
    """Facts right with the helper that is really asked, and what the calls cost."""
    tallies = read_documents(served, read)

    def column(name: str) -> Column:
        return np.array([getattr(tally, name) for tally in tallies], dtype=np.float64)

    columns = {
        "facts_right": (column("right"), column("facts")),
        "wasted_calls": (column("wasted"), column("calls")),
        "calls": (column("calls"), column("decisions")),
        "helper_failures": (column("failed"), column("calls")),
        "price_per_1000_tokens": (column("calls") * price * 1000, column("decisions")),
    }
    return {name: Measure(tuple(names), above, below) for name, (above, below) in columns.items() if below.sum() > 0}


def _written(
    served: ServedModel, documents: Sequence[Document], world: World | None, cfg: GateConfig
) -> dict[str, Measure]:
    """Texts that the model writes as it is served: their truth, where it can be looked up, and the time they took."""
    if not cfg.texts:
        return {}
    names = subjects(world, cfg.texts) if world else [_first_words(each) for each in documents[: cfg.texts]]
    began = time.perf_counter()
    answers = served.cascade.answers([_request(served, name, cfg.text_tokens) for name in names])
    seconds = time.perf_counter() - began
    tokens = sum(len(answer.tokens) for answer in answers)
    found = {"seconds_per_token": Measure(("all texts",), np.array([seconds]), np.array([float(tokens)]))}
    if world is not None:
        found["written_facts_true"] = _truth(served, world, names, answers)
    return {name: each for name, each in found.items() if each.denominator.sum() > 0}


def _truth(served: ServedModel, world: World, names: Sequence[str], answers: Sequence[CascadeAnswer]) -> Measure:
    texts = [judged(world, served.tokenizer, name, answer) for name, answer in zip(names, answers, strict=True)]
    true = np.array([sum(claim[4] for claim in text.claims) for text in texts], dtype=np.float64)
    return Measure(tuple(names), true, np.array([len(text.claims) for text in texts], dtype=np.float64))


def _request(served: ServedModel, text: str, max_tokens: int) -> CascadeRequest:
    tokenizer = served.tokenizer
    sampling = text_sampling(tokenizer.special, max_tokens, presence_penalty=served.presence_penalty)
    room = max(1, served.model.config.context_length - max_tokens)
    return CascadeRequest([tokenizer.end_of_text_id, *tokenizer.encode(text)][:room], sampling)


def _first_words(document: Document) -> str:
    return " ".join(document.text.split(" ")[:_PROMPT_WORDS])


def _leakage(served: ServedModel, questions: Sequence[Question]) -> dict[str, Measure]:
    if not questions:
        return {}
    answers = answer_questions(served.model, served.tokenizer, questions)
    known = [float(mentions(answer)) for answer in answers]
    return {"leakage": Measure(tuple(answer.id for answer in answers), np.array(known), np.ones(len(known)))}


def _sums(columns: Iterable[Float[np.ndarray, " positions"]]) -> Column:
    return np.array([float(column.sum()) for column in columns], dtype=np.float64)
