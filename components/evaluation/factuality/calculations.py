"""Are the results of calculations right, of the small model alone and with its helper?

The judge is exact: a result is right if it is the value of its expression, however it is written. There are two
measurements on solutions of word problems, as in GSM8K (https://arxiv.org/abs/2110.14168).

Given solutions: the model reads the text up to each ``<<48/2=`` and writes the result. It calls above a threshold:
the one at which the budget's share of the tokens of these very solutions would call, so that models compare at equal
budgets, whatever they calibrated on. The calls in all of the solution are counted, not only those at results.

Own solutions: the model reads the question alone, and the cascade is used as it is.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from components.arithmetic.calculations import CLOSING, Calculation, calculations, same_value
from components.cascade.calibration import LEVELS, CallCalibration, quantiles_of
from components.cascade.call_rule import CallRule, call_rule
from components.cascade.decoding import Cascade, CascadeAnswer, CascadeRequest
from components.cascade.helpers.base import Helper, Reply
from components.core.atomic import write_text
from components.core.errors import InputError
from components.data.tokenizer import TextTokenizer
from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import BootstrapConfig, CalculationsConfig, FactsConfig
from components.evaluation.factuality.helper_accuracy import call_at
from components.evaluation.factuality.predictions import predict_each
from components.evaluation.factuality.real_text import CalculationResults, SolvedProblem, WrittenCalculations
from components.evaluation.factuality.records import json_lines
from components.evaluation.heldout import first_shuffled
from components.evaluation.results import Interval
from components.model.generate import Sampling, text_sampling

_RESULT_TOKENS = 24
_ANSWER = re.compile(r"####\s*(-?[0-9.,]+)")


@dataclass(frozen=True)
class Problem:
    """A word problem with its solution."""

    question: str
    solution: str

    @property
    def prompt(self) -> str:
        return f"{self.question}\n"

    @property
    def text(self) -> str:
        return self.prompt + self.solution

    @property
    def calculations(self) -> list[Calculation]:
        """Those of the solution; their places count in ``text``."""
        found = calculations(self.text)
        return [each for each in found if each.start > len(self.prompt)]


@dataclass(frozen=True)
class _Given:
    """A given solution as the model reads it."""

    problem: Problem
    ids: list[int]
    stops: list[int]
    """Bytes of ``problem.text`` up to the end of each token."""
    scores: Float[np.ndarray, " tokens"]
    """How much each token asks for a call."""

    @property
    def first(self) -> int:
        """The first token of the solution."""
        return int(np.searchsorted(self.stops, len(self.problem.prompt.encode()), side="right"))


def read_problems(path: Path, limit: int) -> list[Problem]:
    """At most ``limit`` problems by a fixed shuffle; raises ``InputError`` naming the line that is none."""
    problems = []
    for place, row in json_lines(path, "facts.calculations.file"):
        question, answer = row.get("question"), row.get("answer")
        if not (isinstance(question, str) and isinstance(answer, str) and question.strip() and answer.strip()):
            raise InputError(
                f"{place} is no problem: it needs `question` and `answer`, two texts; it has {sorted(row)}"
            )
        problems.append(Problem(question, answer))
    chosen = [problems[at] for at in first_shuffled(len(problems), limit)]
    if not any(problem.calculations for problem in chosen):
        raise InputError(
            f"{path} holds no calculation: facts.calculations.file needs answers with calculations such as <<48/2=24>>"
        )
    return chosen


def run_calculations(
    cascade: Cascade,
    tokenizer: TextTokenizer,
    cfg: CalculationsConfig,
    facts: FactsConfig,
    solutions_file: Path | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> CalculationResults:
    """Measure ``cascade`` on the problems of ``cfg.file``; what it writes itself goes to ``solutions_file``."""
    problems = read_problems(Path(cfg.file), cfg.problems)
    given = _read(cascade, tokenizer, problems, facts.batch_tokens)
    report(0.1)
    fixed = _with_fixed_threshold(cascade, given)
    decisions, calls, wasted = _counted(fixed, given)
    alone, _ = _results(fixed, tokenizer, problems, 0.0, facts)
    report(0.4)
    asked, called = _results(fixed, tokenizer, problems, cascade.config.budget, facts)
    report(0.7)
    written = problems[: cfg.written]
    own = [_solved(cascade, tokenizer, written, budget, cfg.written_tokens) for budget in (0.0, cascade.config.budget)]
    if solutions_file is not None:
        write_text(solutions_file, "".join(_lines(tokenizer, written, *own)))
    return CalculationResults(
        problems=len(problems),
        calculations=sum(len(problem.calculations) for problem in problems),
        alone=alone,
        cascade=asked,
        called=called,
        budget=cascade.config.budget,
        calls=calls / decisions,
        wasted=wasted / max(1, calls),
        written_alone=_judged(tokenizer, written, own[0], facts) if written else None,
        written_cascade=_judged(tokenizer, written, own[1], facts) if written else None,
    )


def _read(cascade: Cascade, tokenizer: TextTokenizer, problems: Sequence[Problem], batch_tokens: int) -> list[_Given]:
    ids = [tokenizer.encode(problem.text) for problem in problems]
    unlabelled = [np.zeros(len(each), dtype=bool) for each in ids]
    read = predict_each(cascade.model, tokenizer, ids, unlabelled, batch_tokens)
    return [
        _Given(problem, each, np.cumsum(found.bytes).tolist(), found.asking(cascade.config.call_score)[:-1])
        for problem, each, found in zip(problems, ids, read, strict=True)
    ]


def _with_fixed_threshold(cascade: Cascade, given: Sequence[_Given]) -> Cascade:
    """The same cascade, calibrated on the tokens of the given solutions."""
    scores = np.concatenate([each.scores[each.first :] for each in given])
    levels = quantiles_of(scores)
    score = cascade.config.call_score
    calibration = CallCalibration(
        quantiles=levels if score == "call" else [0.0] * LEVELS,
        post_hoc={} if score == "call" else {score: levels},
        tokens=len(scores),
        factual=True,
    )
    config = cascade.config.model_copy(update={"rule": "fixed"})
    return Cascade(cascade.model, cascade.tokenizer, cascade.helper, calibration, config)


def _counted(cascade: Cascade, given: Sequence[_Given]) -> tuple[int, int, int]:
    """Decisions, calls, and calls to which the helper has nothing to say, in all given solutions."""
    rule = call_rule(cascade.config, cascade.config.budget, cascade.calibration)
    outcomes = [said for each in given for said in _walk(cascade, each, rule)]
    return len(outcomes), sum(said is not None for said in outcomes), sum(said is False for said in outcomes)


def _walk(cascade: Cascade, given: _Given, rule: CallRule) -> Iterator[bool | None]:
    """For every decision in a given solution: whether the helper had something to say; ``None`` without a call.

    The result that it says is not decided any more: the text goes on behind it.
    """
    ends = [len(given.problem.text[: each.end].encode()) + len(CLOSING) for each in given.problem.calculations]
    starts = [len(given.problem.text[: each.start].encode()) for each in given.problem.calculations]
    place = given.first
    while place < len(given.ids):
        said = _asked(cascade, given, place) if rule.wants(float(given.scores[place])) else None
        yield said
        at = given.stops[place - 1] if place else 0
        written = [end for start, end in zip(starts, ends, strict=True) if start <= at < end] if said else []
        place = 1 + max([place, *np.searchsorted(given.stops, written).tolist()])


def _asked(cascade: Cascade, given: _Given, place: int) -> bool:
    helper: Helper | None = cascade.helper
    assert helper is not None  # or nothing would call
    call, _ = call_at(cascade.tokenizer, given.ids, place, cascade.config, "calculations")
    (reply,) = helper.answer([call])
    helper.forget(call.session)
    return isinstance(reply, Reply) and bool(reply.text)


def _results(
    cascade: Cascade, tokenizer: TextTokenizer, problems: Sequence[Problem], budget: float, cfg: BootstrapConfig
) -> tuple[Interval, float]:
    """Share of right results with an interval over the problems, and share of results that were asked for."""
    sampling = _until_closing(cascade, tokenizer)
    spans = [(number, each) for number, problem in enumerate(problems) for each in problem.calculations]
    requests = [
        CascadeRequest(_prompt(cascade, tokenizer, problems[number].text[: each.start], sampling), sampling, budget)
        for number, each in spans
    ]
    answers = cascade.answers(requests)
    right, count = np.zeros(len(problems)), np.zeros(len(problems))
    for (number, each), answer in zip(spans, answers, strict=True):
        result, closed, _ = _text(tokenizer, answer).partition(CLOSING)
        right[number] += bool(closed) and same_value(each.expression, result)
        count[number] += 1
    asked = sum(any(token.call == "answered" for token in answer.tokens) for answer in answers)
    return ratio_interval(right[count > 0], count[count > 0], cfg), asked / len(answers)


def _until_closing(cascade: Cascade, tokenizer: TextTokenizer) -> Sampling:
    """Up to the end of a result. Long enough for one call, since a request may call for a share of its length only."""
    one_call = math.ceil(1 / cascade.config.budget) if cascade.config.budget else 0
    sampling = text_sampling(
        tokenizer.special, min(max(_RESULT_TOKENS, one_call), cascade.model.config.context_length // 2)
    )
    ending = (id for id in range(tokenizer.vocab_size) if {*b">\n"} & {*tokenizer.token_bytes(id)})
    return replace(sampling, stop_ids=sampling.stop_ids | frozenset(ending))


def _solved(
    cascade: Cascade, tokenizer: TextTokenizer, problems: Sequence[Problem], budget: float, max_tokens: int
) -> list[CascadeAnswer]:
    sampling = text_sampling(tokenizer.special, min(max_tokens, cascade.model.config.context_length // 2))
    prompts = [_prompt(cascade, tokenizer, problem.prompt, sampling) for problem in problems]
    return cascade.answers([CascadeRequest(prompt, sampling, budget) for prompt in prompts])


def _prompt(cascade: Cascade, tokenizer: TextTokenizer, text: str, sampling: Sampling) -> list[int]:
    """The ids of ``text``; of one that leaves no room for an answer, the last."""
    return [tokenizer.end_of_text_id, *tokenizer.encode(text)][
        -(cascade.model.config.context_length - sampling.max_tokens) :
    ]


def _judged(
    tokenizer: TextTokenizer, problems: Sequence[Problem], answers: Sequence[CascadeAnswer], cfg: BootstrapConfig
) -> WrittenCalculations:
    texts = [_text(tokenizer, answer) for answer in answers]
    found = [list(calculations(text)) for text in texts]
    count = np.array([len(each) for each in found], dtype=np.float64)
    right = np.array([sum(one.right for one in each) for each in found], dtype=np.float64)
    some = count > 0
    calls = sum(answer.summary.calls for answer in answers)
    return WrittenCalculations(
        problems=len(problems),
        calculations=int(count.sum()),
        right=ratio_interval(right[some], count[some], cfg) if some.any() else None,
        solved=float(np.mean([_solves(text, problem) for text, problem in zip(texts, problems, strict=True)])),
        calls=calls / max(1, sum(answer.summary.decisions for answer in answers)),
        wasted=sum(answer.summary.empty_calls for answer in answers) / max(1, calls),
    )


def _solves(text: str, problem: Problem) -> bool:
    written, wanted = _ANSWER.search(text), _ANSWER.search(problem.solution)
    if written is None or wanted is None:
        return False
    return same_value(wanted[1].replace(",", ""), written[1].replace(",", ""))


def _text(tokenizer: TextTokenizer, answer: CascadeAnswer) -> str:
    return tokenizer.decode([id for id in answer.ids if id != tokenizer.end_of_text_id])


def _lines(
    tokenizer: TextTokenizer,
    problems: Sequence[Problem],
    alone: Sequence[CascadeAnswer],
    asked: Sequence[CascadeAnswer],
) -> Iterator[str]:
    for problem, without, with_calls in zip(problems, alone, asked, strict=True):
        line = SolvedProblem(
            question=problem.question,
            solution=problem.solution,
            alone=_text(tokenizer, without),
            cascade=_text(tokenizer, with_calls),
        )
        yield json.dumps(line.model_dump(), ensure_ascii=False) + "\n"
