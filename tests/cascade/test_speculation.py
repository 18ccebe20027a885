import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cascade.config import CascadeConfig
from components.cascade.decoding import Cascade, CascadeAnswer, CascadeDecoding, CascadeRequest, CascadeToken
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.helpers.model import ModelHelper
from components.cascade.reply_unit import first_unit
from components.cascade.rows import Decision
from components.model.generate import Sampling
from tests.fakes import SENTENCES, SHAPE, Told, calibration, speaker, start, tokenizer

TOKENS = tokenizer()
SMALL = speaker(TOKENS)
PROMPTS = [start(TOKENS, sentence[: 7 * (i + 1)]) for i, sentence in enumerate(SENTENCES[:2])]


class Held(Executor):
    """Asks at once, and hands the replies over when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            found = fn(*args, **kwargs)
        except Exception as error:
            self.waiting.append(partial(future.set_exception, error))
        else:
            self.waiting.append(partial(future.set_result, found))
        return future

    def release(self, place: int = 0) -> None:
        self.waiting.pop(place)()


@torch.inference_mode()
def own_word(call: Call) -> str:
    """What the small model would say itself."""
    ids, silent = list(call.ids), list(TOKENS.special.ids.values())
    while True:
        logits = SMALL.logits(SMALL(torch.tensor([ids])))[0, -1]
        logits[silent] = float("-inf")
        ids.append(int(logits.argmax()))
        text, ended = first_unit(TOKENS.decode(ids[len(call.ids) :]), call.unit)
        if ended or len(ids) == len(call.ids) + call.max_tokens:
            return text


def depending_on_the_text(call: Call) -> str | HelperError:
    chosen = random.Random(call.text).randrange(5)
    return own_word(call) if chosen < 2 else (" 1987", "", HelperError("too late"))[chosen - 2]


SAID: dict[str, str | HelperError | Callable[[Call], str | HelperError]] = {
    "always what is guessed": own_word,
    "never what is guessed": lambda call: f" {len(call.text)}",
    "the same whatever stands before": " Warszawa",
    "now this, now that": depending_on_the_text,
    "nothing": "",
    "failure": HelperError("too late"),
    "several words": " University of Warszawa",
}


def cascade(  # nearly all scores are above 1e-9: as many calls as the budget allows
    helper: Helper, executor: Executor | None, at_once: int = 1, high: float = 1e-9, **config: object
) -> Cascade:
    settings = CascadeConfig.model_validate(config)
    record = calibration(0.0, high)
    return Cascade(SMALL, TOKENS, helper, record, settings, executor=executor, questions_at_once=at_once)


def followed(decoding: CascadeDecoding, executor: Held, chance: random.Random) -> dict[int, CascadeAnswer]:
    """All answers, with replies that come at any time and in any order."""
    tokens: dict[int, list[CascadeToken]] = {}
    answers: dict[int, CascadeAnswer] = {}
    while decoding.active:
        stuck = all(row.waiting for row in decoding._rows)
        if executor.waiting and (stuck or chance.random() < 0.3):
            executor.release(chance.randrange(len(executor.waiting)))
        steps = decoding.step()
        assert len({step.request for step in steps}) == len(steps)
        for step in steps:
            assert step.error is None, step.error
            tokens.setdefault(step.request, []).extend(step.tokens)
            if step.finish is not None and step.summary is not None:
                answers[step.request] = CascadeAnswer(tuple(tokens[step.request]), step.finish, step.summary)
    return answers


def without_time(answer: CascadeAnswer) -> tuple[object, ...]:
    """All of an answer but times and what the guesses cost."""
    tokens = [replace(token, seconds=0.0, helper_seconds=0.0) for token in answer.tokens]
    return tokens, answer.finish, replace(answer.summary, helper_seconds=0.0, discarded_calls=0)


@settings(max_examples=25, deadline=None)
@given(
    said=st.sampled_from(sorted(SAID)),
    sampling=st.sampled_from(
        [
            Sampling(temperature=0),
            Sampling(temperature=0, presence_penalty=1.5, frequency_penalty=0.5),
            Sampling(temperature=0.8, seed=5),
            Sampling(temperature=1.0, top_k=20, repetition_penalty=1.3, frequency_penalty=0.5, seed=1),
        ]
    ),
    budget=st.sampled_from([0.15, 0.4, 1.0]),
    max_tokens=st.sampled_from([2, 9, 22, 30]),
    max_calls=st.sampled_from([None, None, 3]),
    unit=st.sampled_from(["token", "word", "entity"]),
    max_unit_tokens=st.sampled_from([3, 16]),
    high=st.sampled_from([1e-9, 0.02]),
    rule=st.sampled_from(["running_quantile", "fixed"]),
    at_once=st.integers(2, 6),
    seed=st.integers(0, 1_000_000),
)
def test_whatever_comes_of_the_guesses_the_answers_are_those_of_waiting(
    said: str,
    sampling: Sampling,
    budget: float,
    max_tokens: int,
    max_calls: int | None,
    unit: str,
    max_unit_tokens: int,
    high: float,
    rule: str,
    at_once: int,
    seed: int,
) -> None:
    settings = {"unit": unit, "rule": rule, "budget": budget, "max_unit_tokens": max_unit_tokens, "high": high}
    sampling = replace(sampling, max_tokens=max_tokens, stop_ids=frozenset({TOKENS.end_of_text_id}))
    requests = [CascadeRequest(prompt, sampling, max_calls=max_calls, alternatives=2) for prompt in PROMPTS]
    expected = cascade(Told(SAID[said]), None, **settings).answers(requests)  # type: ignore[arg-type]
    executor, helper = Held(), Told(SAID[said])
    decoding = cascade(helper, executor, at_once, **settings).decoding()  # type: ignore[arg-type]
    for request in requests:
        decoding.add(request)
    answers = followed(decoding, executor, random.Random(seed))
    assert [without_time(answers[number]) for number in range(len(PROMPTS))] == list(map(without_time, expected))
    made = sum(answer.summary.calls + answer.summary.discarded_calls for answer in answers.values())
    assert made == len(helper.calls)


def asked_ahead(
    said: str, at_once: int, max_tokens: int = 20
) -> tuple[Told, Held, CascadeDecoding, list[CascadeAnswer]]:
    """One request that has asked all it may, before any reply; and what waiting gives for it."""
    request = CascadeRequest(PROMPTS[0], Sampling(temperature=0, max_tokens=max_tokens))
    expected = cascade(Told(SAID[said]), None, budget=0.4, unit="token").answers([request])
    helper, executor = Told(SAID[said]), Held()
    decoding = cascade(helper, executor, at_once, budget=0.4, unit="token").decoding()
    decoding.add(request)
    return helper, executor, decoding, expected


def until_it_waits(decoding: CascadeDecoding) -> list[CascadeToken]:
    """What is shown before the only request cannot go on."""
    shown: list[CascadeToken] = []
    while True:
        shown += [token for step in decoding.step() for token in step.tokens]
        if all(row.waiting for row in decoding._rows):
            return shown


@pytest.mark.parametrize("said", ["always what is guessed", "never what is guessed"])
def test_nothing_is_shown_that_may_be_taken_back(said: str) -> None:
    helper, executor, decoding, (answer,) = asked_ahead(said, at_once=3)
    calls = [at for at, token in enumerate(answer.tokens) if token.call != "none" and token.logprob is not None]
    shown = until_it_waits(decoding)
    assert [token.id for token in shown] == answer.ids[: calls[0]]
    assert len(helper.calls) == 3
    assert decoding.summary(0).calls == 1
    executor.release()
    shown += until_it_waits(decoding)
    assert [token.id for token in shown] == answer.ids[: calls[1]]
    assert decoding.summary(0).discarded_calls == (0 if said == "always what is guessed" else 2)


@pytest.mark.parametrize(
    ("said", "most"), [("always what is guessed", 0.25), ("the same whatever stands before", 0.6), ("nothing", 0.5)]
)
def test_the_waits_of_one_request_overlap(said: str, most: float) -> None:
    """How often all questions that are under way have to be waited for, beside one wait for each call."""
    _, executor, decoding, (answer,) = asked_ahead(said, at_once=16, max_tokens=40)
    waits = 0
    until_it_waits(decoding)
    while decoding.active:
        waits += 1
        while executor.waiting:
            executor.release()
        until_it_waits(decoding)
    assert answer.summary.calls > 8
    assert waits <= most * answer.summary.calls


def test_of_a_request_that_is_dropped_all_questions_are_forgotten() -> None:
    helper, executor, decoding, _ = asked_ahead("never what is guessed", at_once=3)
    until_it_waits(decoding)
    summary = decoding.summary(0)
    decoding.cancel(0)
    assert helper.forgotten == [helper.calls[0].session]
    assert (summary.calls, summary.discarded_calls) == (1, 2)
    while executor.waiting:
        executor.release()
    assert decoding.step() == []


def test_what_fails_only_after_a_wrong_guess_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    _, executor, decoding, (answer,) = asked_ahead("never what is guessed", at_once=3)
    calls = CascadeDecoding._calls

    def fail_after_a_guess(self: CascadeDecoding, decision: Decision) -> bool:
        if decision.row.asked:
            raise ValueError("the guess was bad")
        return calls(self, decision)

    monkeypatch.setattr(CascadeDecoding, "_calls", fail_after_a_guess)
    (found,) = followed(decoding, executor, random.Random(0)).values()
    assert without_time(found) == without_time(answer)


def test_an_error_of_the_helper_ends_the_request_and_no_other() -> None:
    class Broken(Told):
        def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
            if any(call.ids[: len(PROMPTS[0])] == tuple(PROMPTS[0]) for call in calls):
                raise RuntimeError("broken")
            return super().answer(calls)

    executor = Held()
    decoding = cascade(Broken(" 1987"), executor, 3, budget=0.4).decoding()
    sampling = Sampling(temperature=0, max_tokens=12)
    broken = decoding.add(CascadeRequest(PROMPTS[0], sampling))
    until_it_waits(decoding)
    other = decoding.add(CascadeRequest(PROMPTS[1], sampling))
    errors: dict[int, Exception] = {}
    finished: list[int] = []
    while decoding.active:
        if executor.waiting and all(row.waiting for row in decoding._rows):
            executor.release()
        for step in decoding.step():
            errors |= {step.request: step.error} if step.error else {}
            finished += [step.request] if step.finish else []
    assert list(errors) == [broken]
    assert finished == [other]


@pytest.mark.parametrize("why", ["no executor", "a shared rule"])
def test_it_waits_where_it_cannot_go_on(why: str) -> None:
    executor = None if why == "no executor" else Held()
    shared = why == "a shared rule"
    asked = Cascade(
        SMALL,
        TOKENS,
        Told(""),
        calibration(),
        CascadeConfig(),
        shared_rule=shared,
        executor=executor,
        questions_at_once=4,
    )
    assert asked.questions_at_once == 1


def test_a_larger_model_may_be_asked_several_questions_of_a_request_at_once() -> None:
    large = speaker(TOKENS, 1, SHAPE.model_copy(update={"name": "large"}))
    requests = [CascadeRequest(prompt, Sampling(temperature=0, max_tokens=20)) for prompt in PROMPTS]

    def helper() -> ModelHelper:
        return ModelHelper(large, TOKENS, same_tokenizer=True)

    expected = cascade(helper(), None, budget=0.5).answers(requests)
    with ThreadPoolExecutor(4) as executor:
        asked = cascade(helper(), executor, 4, budget=0.5)
        assert list(map(without_time, asked.answers(requests))) == list(map(without_time, expected))
