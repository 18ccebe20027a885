"""Exact match: does the model, continuing a prompt with its likeliest tokens, begin with the answer?

The closed world knows every fact, so precision needs no judge. Facts differ in how often the text states them, and that
decides what a small model can know. So the score is also given for facts that are stated more often than the median,
and for the others.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from components.core.errors import ArtifactError
from components.data.tokenizer import TextTokenizer
from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import BootstrapConfig
from components.evaluation.heldout import first_shuffled
from components.evaluation.results import Answer, ExactMatch
from components.model.transformer import KeyValueCache, Transformer

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
    written = [""] * len(questions)
    done = 0
    for batch in _equal_lengths(prompts, batch_questions):
        device = model.output_weight.device
        rows = _continue_greedily(
            model, torch.tensor([prompts[i] for i in batch], device=device), tokenizer, new_tokens
        )
        for i, ids in zip(batch, rows.tolist(), strict=True):
            end = ids.index(tokenizer.end_of_text_id) if tokenizer.end_of_text_id in ids else len(ids)
            written[i] = tokenizer.decode(ids[:end])
        done += len(batch)
        report(done / len(questions))
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


def _equal_lengths(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Batches of prompts of one length, which need no padding between prompt and continuation."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        by_length[len(prompt)].append(i)
    for members in by_length.values():
        for start in range(0, len(members), size):
            yield members[start : start + size]


def _continue_greedily(
    model: Transformer, prompts: Int[Tensor, "batch seq"], tokenizer: TextTokenizer, new_tokens: int
) -> Int[Tensor, "batch new"]:
    suppressed = sorted(tokenizer.special.never_written)
    batch, seq = prompts.shape
    cache = KeyValueCache.for_model(model, batch, seq + new_tokens)
    pending, written = prompts, []
    for _ in range(new_tokens):
        logits = model.logits(model(pending, cache=cache)[:, -1:])[:, 0]
        logits[:, suppressed] = float("-inf")
        pending = logits.argmax(dim=-1, keepdim=True)
        written.append(pending)
    return torch.cat(written, dim=1)
