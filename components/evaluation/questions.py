"""Exact match: does the model, continuing a prompt with its likeliest tokens, begin with the answer?

The closed world knows every fact, so precision needs no judge. Facts differ in how often the text states them, and that
decides what a small model can know. So the score is also given for facts that are stated more often than the median,
and for the others.
"""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import ArtifactError
from components.data.tokenizer import TextTokenizer
from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import BootstrapConfig
from components.evaluation.heldout import first_shuffled
from components.evaluation.results import Answer, ExactMatch
from components.model.decoder import Decoder, Row
from components.model.sampling import text_sampling
from components.model.transformer import Transformer

# Room for a token or two that the tokenizer splits otherwise when the model writes the answer.
_SPARE_TOKENS = 2


class Question(BaseModel):
    """One line of ``questions.jsonl``; fields that only other stages need are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    id: str
    """Stable name of the question."""
    question: str
    """The question as a person would put it."""
    prompt: str
    """Start of a sentence in the style of the corpus that the answer completes."""
    answer: str
    """What must follow."""
    aliases: list[str] = []
    """Other spellings that count."""
    stated: int
    """How often the corpus states the fact."""


def read_questions(path: Path, limit: int) -> list[Question]:
    """At most ``limit`` questions, by a fixed shuffle; raises ``ArtifactError`` naming the line that is no question."""
    with path.open(encoding="utf-8", newline="\n") as file:  # nothing but a newline ends a line of JSON
        lines = file.readlines()
    questions = []
    for number in first_shuffled(len(lines), limit):
        try:
            questions.append(Question.model_validate_json(lines[number]))
        except ValidationError as error:
            raise ArtifactError(f"{path}, line {number + 1} is not a question: {error}") from error
    return questions


@torch.inference_mode()
def answer_questions(
    model: Transformer,
    tokenizer: TextTokenizer,
    questions: Sequence[Question],
    batch_questions: int = 64,
    report: Callable[[float], None] = lambda fraction: None,
) -> list[Answer]:
    """Continue every prompt greedily, ``<CALL>`` and other special tokens suppressed; answers in the given order.

    Each prompt starts a document. One that does not fit the context beside its answer keeps its end.
    """
    if not questions:
        return []
    accepted = [[question.answer, *question.aliases] for question in questions]
    longest = max(len(ids) for spellings in accepted for ids in tokenizer.encode_batch(spellings))
    context = model.config.context_length
    new_tokens = min(longest + _SPARE_TOKENS, context // 2)
    prompts = [
        # A space at the end would be a token of its own: in text it belongs to the word that follows.
        [tokenizer.end_of_text_id, *tokenizer.encode(question.prompt.rstrip())][new_tokens - context :]
        for question in questions
    ]
    sampling = text_sampling(tokenizer.special, new_tokens)
    decoder = Decoder(model)
    written: list[str] = []
    for start in range(0, len(prompts), batch_questions):
        rows = [decoder.add(prompt, sampling) for prompt in prompts[start : start + batch_questions]]
        while decoder.rows:
            decoder.step()
        written += [tokenizer.decode(_text(row)) for row in rows]
        report(len(written) / len(questions))
    return [
        Answer(
            id=question.id,
            question=question.question,
            prompt=question.prompt,
            expected=question.answer,
            written=text,
            correct=any(begins_with(text, spelling) for spelling in spellings),
            stated=question.stated,
        )
        for question, text, spellings in zip(questions, written, accepted, strict=True)
    ]


def begins_with(text: str, answer: str) -> bool:
    """Whether the first words of ``text`` are those of ``answer``; case and punctuation do not matter.

    Whole words only: "1987" is not the beginning of "19870", nor "Ann" of "Anna".
    """
    wanted = _words(answer)
    return bool(wanted) and _words(text)[: len(wanted)] == wanted


def mentions(answer: Answer) -> bool:
    """Whether the model wrote the answer anywhere: it knows the fact, however it puts it."""
    return answer.expected.casefold() in answer.written.casefold()


def exact_match(answers: Sequence[Answer], cfg: BootstrapConfig) -> dict[str, ExactMatch]:
    """Exact match over ``all`` answers, and over ``head`` and ``tail``: facts stated more than the median, or not.

    A part without questions is left out.
    """
    if not answers:
        return {}
    correct = np.array([answer.correct for answer in answers], dtype=np.float64)
    stated = np.array([answer.stated for answer in answers])
    often = stated > np.median(stated)
    parts = {"all": np.ones_like(often), "head": often, "tail": ~often}
    return {
        name: ExactMatch(questions=int(part.sum()), share=ratio_interval(correct[part], np.ones(int(part.sum())), cfg))
        for name, part in parts.items()
        if part.any()
    }


def _words(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character if character.isalnum() else " " for character in text).split()


def _text(row: Row) -> list[int]:
    """What was written, without the token that ended it."""
    written = row.ids[row.prompt_tokens :]
    return written[:-1] if row.finish == "stop" else written
