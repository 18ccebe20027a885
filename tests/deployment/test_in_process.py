"""Answers without a server: the same as the server's, with their authors."""

from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError

from components.core.errors import InputError
from components.deployment.engine import Engine
from components.deployment.in_process import WINDOW, answer, requests_of
from components.model.bundle import Bundle
from tests.deployment.conftest import Fact


@pytest.fixture(scope="module")
def cascade(asking: Bundle) -> Iterator[Engine]:
    with Engine(asking.folder, threads=1) as engine:
        yield engine


def test_the_helper_is_named_as_the_author_of_its_words(cascade: Engine, fact: Fact) -> None:
    (given,) = answer(cascade, requests_of(cascade, [fact.prompt], call_budget=1.0, temperature=0.0, max_tokens=6))
    assert given.calls > 0
    assert given.failed_calls == 0
    assert given.spans[0].author == "helper"
    assert given.spans[0].text.startswith(fact.value)
    assert "".join(span.text for span in given.spans) == given.text
    assert all(given.text[span.start : span.end] == span.text for span in given.spans)


def test_without_calls_the_small_model_writes_everything(cascade: Engine, fact: Fact) -> None:
    (given,) = answer(cascade, requests_of(cascade, [fact.prompt], call_budget=0.0, temperature=0.0, max_tokens=6))
    assert given.calls == 0
    assert [span.author for span in given.spans] == ["small"]
    assert given.finish_reason == "length"


def test_more_prompts_than_fit_at_once_are_answered_in_order(engine: Engine) -> None:
    prompts = [f"The lighthouse {number}" for number in range(2 * WINDOW + 3)]
    settings = {"temperature": 0.0, "max_tokens": 3}
    together = answer(engine, requests_of(engine, prompts, **settings))
    for number in (0, WINDOW, len(prompts) - 1):
        (alone,) = answer(engine, requests_of(engine, [prompts[number]], **settings))
        assert together[number] == alone


def test_no_prompts_give_no_answers(engine: Engine) -> None:
    assert answer(engine, requests_of(engine, [])) == []


def test_the_same_seed_gives_the_same_text(engine: Engine) -> None:
    first, again = (answer(engine, requests_of(engine, ["She"], temperature=1.0, seed=7)) for _ in range(2))
    assert first == again


def test_an_impossible_prompt_ends_the_others_too(engine: Engine) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        answer(engine, requests_of(engine, ["She", ""]))
    (given,) = answer(engine, requests_of(engine, ["She"], max_tokens=8, temperature=0))  # free again
    assert given.text
    assert engine.active == 0


@pytest.mark.parametrize(("name", "value"), [("call_budget", 1.5), ("max_tokens", 0), ("temperature", -0.1)])
def test_settings_out_of_range_are_refused_by_name(engine: Engine, name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        requests_of(engine, ["She"], **{name: value})


def test_calls_without_a_helper_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"call_budget=0\.5, but this model answers without a helper"):
        requests_of(engine, ["She"], call_budget=0.5)


def test_the_server_says_the_same(engine: Engine, client: httpx.Client) -> None:
    prompt, settings = "She was born in", {"temperature": 0.0, "max_tokens": 12}
    served = client.post("/v1/completions", json={"prompt": prompt, **settings}).json()["choices"][0]
    (given,) = answer(engine, requests_of(engine, [prompt], **settings))
    assert (given.text, given.finish_reason) == (served["text"], served["finish_reason"])
