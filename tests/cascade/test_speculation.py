import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cascade.config import CascadeConfig
from components.cascade.decoding import Cascade, CascadeAnswer, CascadeDecoding, CascadeRequest, CascadeToken
from components.cascade.helpers.base import Call, HelperError
from components.cascade.helpers.model import ModelHelper
from components.cascade.reply_unit import first_unit
from components.model.generate import Sampling
from tests.fakes import SENTENCES, Told, calibration, speaker, start, tokenizer

TOKENS = tokenizer()
SMALL = speaker(TOKENS)
PROMPTS = [start(TOKENS, sentence[: 7 * (i + 1)]) for i, sentence in enumerate(SENTENCES[:2])]
CALIBRATION = calibration(0.0, 0.02)


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
        if ended or len(ids) >= len(call.ids) + 4:
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


def cascade(helper: Told | ModelHelper, executor: Executor | None, at_once: int = 1, **config: object) -> Cascade:
    settings = CascadeConfig.model_validate(config)
    return Cascade(SMALL, TOKENS, helper, CALIBRATION, settings, executor=executor, questions_at_once=at_once)


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
    max_tokens=st.integers(1, 22),
    max_calls=st.sampled_from([None, None, 3]),
    unit=st.sampled_from(["token", "word", "entity"]),
    rule=st.sampled_from(["running_quantile", "fixed"]),
    at_once=st.integers(2, 6),
    chance=st.randoms(use_true_random=False),
)
def test_whatever_comes_of_the_guesses_the_answers_are_those_of_waiting(
    said: str,
    sampling: Sampling,
    budget: float,
    max_tokens: int,
    max_calls: int | None,
    unit: str,
    rule: str,
    at_once: int,
    chance: random.Random,
) -> None:
    settings = {"unit": unit, "rule": rule, "budget": budget}
    often = TOKENS.encode(" 1987")[-1]
    sampling = replace(sampling, max_tokens=max_tokens, stop_ids=frozenset({TOKENS.end_of_text_id, often}))
    requests = [CascadeRequest(prompt, sampling, max_calls=max_calls, alternatives=2) for prompt in PROMPTS]
    expected = cascade(Told(SAID[said]), None, **settings).answers(requests)
    executor, helper = Held(), Told(SAID[said])
    decoding = cascade(helper, executor, at_once, **settings).decoding()
    for request in requests:
        decoding.add(request)
    answers = followed(decoding, executor, chance)
    assert [without_time(answers[number]) for number in range(len(PROMPTS))] == list(map(without_time, expected))
    made = sum(answer.summary.calls + answer.summary.discarded_calls for answer in answers.values())
    assert made == len(helper.calls)
