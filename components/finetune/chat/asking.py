"""Asks a model as a server would, and judges what it says.

An answer is right if it states the value that was asked for, in the value's own words, and nothing untrue. It is wrong
if it states anything of the closed world that is not true. One that states nothing is neither.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.cascade.decoding import Cascade, CascadeAnswer, CascadeRequest
from components.data.tokenizer import TextTokenizer
from components.data.world.comprehension import World
from components.evaluation.questions import Question, answer_questions, begins_with
from components.finetune.chat.results import Said
from components.model.generate import Sampling
from components.model.transformer import Transformer

Report = Callable[[float], None]


@dataclass(frozen=True)
class Judge:
    """Knows what is true of the closed world."""

    world: World

    def right(self, question: Question, text: str) -> bool:
        """Whether the words of ``text`` hold those of the answer, one after the other; names in full."""
        return any(_holds(text, spelling) for spelling in [question.answer, *question.aliases])

    def wrong(self, question: Question, text: str) -> bool:
        return any(not claim.true for claim in self.world.claims(text, self._subject(question)).claims)

    def _subject(self, question: Question) -> str:
        fact = question.id.removeprefix("question-")  # named after its fact
        return self.world.table.entities[fact.rpartition(".")[0]].name


def ask(
    cascade: Cascade,
    conversations: Sequence[Sequence[dict[str, str]]],
    budget: float,
    answer_tokens: int,
    batch: int,
    report: Report = lambda fraction: None,
) -> list[CascadeAnswer]:
    """The next turn of each conversation, greedily, with at most a share ``budget`` of calls."""
    special = cascade.tokenizer.special
    sampling = Sampling(0.0, max_tokens=answer_tokens, stop_ids=frozenset({special.im_end, special.end_of_text}))
    requests = [CascadeRequest(cascade.tokenizer.encode_chat(each), sampling, budget) for each in conversations]
    answers: list[CascadeAnswer] = []
    for start in range(0, len(requests), 4 * batch):
        answers += cascade.answers(requests[start : start + 4 * batch], batch)
        report(len(answers) / len(requests))
    return answers


def said(tokenizer: TextTokenizer, name: str, budget: float, question: str, answer: CascadeAnswer) -> Said:
    """The answer, and whether it is well formed."""
    *body, last = answer.ids
    special = tokenizer.special
    text = tokenizer.decode(body if last in (special.im_end, special.end_of_text) else answer.ids)
    whole = last == special.im_end and not set(body) & set(special.ids.values())
    return Said(
        model=name,
        budget=budget,
        question=question,
        text=text,
        well_formed=whole and bool(text.strip()),
        decisions=answer.summary.decisions,
        calls=answer.summary.calls,
    )


def judged(judge: Judge, question: Question, answer: Said) -> Said:
    """The same answer with the verdict on what it states."""
    wrong = judge.wrong(question, answer.text)
    right = judge.right(question, answer.text) and not wrong
    return answer.model_copy(update={"expected": question.answer, "right": right, "wrong": wrong})


def prompted(
    name: str, model: Transformer, tokenizer: TextTokenizer, questions: Sequence[Question], judge: Judge, report: Report
) -> list[Said]:
    """The base, asked as the closed world's questions ask it: by the beginning of a sentence."""
    answers = answer_questions(model, tokenizer, questions, report=report)
    return [
        judged(
            judge,
            question,
            Said(
                model=name,
                budget=0.0,
                question=question.prompt,
                text=_first_sentence(f"{question.prompt}{answer.written}"),
                well_formed=True,
            ),
        )
        for question, answer in zip(questions, answers, strict=True)
    ]


def _holds(text: str, value: str) -> bool:
    words = text.split()
    return any(begins_with(" ".join(words[place:]), value) for place in range(len(words)))


def _first_sentence(text: str) -> str:
    ends = [place for end in (". ", ".\n") if (place := text.find(end)) >= 0]
    return text[: min(ends) + 1] if ends else text
