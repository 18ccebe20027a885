"""The stage ``write``: a teacher writes, here or behind a server, and no answer is asked for twice."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.core.errors import InputError, ServiceError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.split import TRAIN
from components.finetune.distill.artifact import TeacherTexts
from components.finetune.distill.config import DistillConfig, WriteConfig, WriteSettings
from components.finetune.distill.write import prompts_of, stage
from components.finetune.distill.writers import API_KEY, ServedWriter
from components.training.trained import TrainedModel
from tests.clients.server import Handler, Server

ASK = {"prompts": 10, "prompt_tokens": 6, "max_tokens": 12, "texts_at_once": 4, "retries": 0}


def ask(**changes: Any) -> WriteSettings:
    return WriteSettings.model_validate({**ASK, **changes})


def asked(url: str, folder: Path, prepared: PreparedData, **changes: Any) -> TeacherTexts:
    config = WriteConfig(teacher=url, ask=ask(**changes))
    return stage(Run.local(folder, "write"), config, prepared=prepared)


def telling(handler: Handler) -> None:
    """A server that gives a finish reason and log-probabilities, all but that of a word of its helper."""
    scores = {"token_logprobs": [-0.5, None, -1.5], "tokens": ["a", "b", "c"]}
    choices = [
        {"index": place, "text": f" {place} away.", "finish_reason": "stop", "logprobs": scores}
        for place, _ in enumerate(handler.server.bodies[-1]["prompt"])
    ]
    handler.send({"choices": choices, "usage": {"completion_tokens": 3 * len(choices)}})


def failing(status: int, works: Callable[[int], bool]) -> Callable[[Handler], None]:
    """A server that answers those of its requests, counted from 1, for which ``works``."""

    def act(handler: Handler) -> None:
        telling(handler) if works(len(handler.server.bodies)) else handler.send({"error": "not now"}, status)

    return act


def test_prompts_are_beginnings_of_training_documents_in_whole_words(prepared: PreparedData) -> None:
    split = prepared.shards().splits[TRAIN]
    documents = list(prepared.texts(TRAIN, range(split.n_documents)))
    prompts = list(prompts_of(prepared, ask(prompts=50)))
    assert len(prompts) == 50
    for prompt in prompts:
        assert any(document.startswith(f"{prompt} ") for document in documents)
    assert prompts != list(prompts_of(prepared, ask(prompts=50, seed=1)))


def test_documents_are_taken_again_unless_the_same_would_be_written(prepared: PreparedData) -> None:
    documents = prepared.shards().splits[TRAIN].n_documents
    assert len(list(prompts_of(prepared, ask(prompts=3 * documents)))) == 3 * documents
    assert len(list(prompts_of(prepared, ask(prompts=3 * documents, temperature=0)))) <= documents


def test_no_document_is_long_enough(tmp_path: Path, prepared: PreparedData, server: Server) -> None:
    with pytest.raises(InputError, match=r"none of the 360 training documents is longer than .*prompt_tokens=9000"):
        asked(server.url, tmp_path, prepared, prompt_tokens=9000)
    assert server.bodies == []


def test_a_server_is_asked_for_each_prompt_and_its_words_are_kept(
    tmp_path: Path, prepared: PreparedData, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY, "ours")
    server.act = telling
    made = asked(server.url, tmp_path, prepared, temperature=0.7, top_p=0.9, seed=2)
    prompts = list(prompts_of(prepared, ask(seed=2)))
    assert [body["prompt"] for body in server.bodies] == [prompts[:4], prompts[4:8], prompts[8:]]
    body = server.bodies[1]
    assert [body[key] for key in ("model", "temperature", "top_p", "logprobs")] == ["large", 0.7, 0.9, 0]
    assert [body["seed"] for body in server.bodies] == [20, 24, 28]
    assert server.headers[0]["Authorization"] == "Bearer ours"
    texts = made.texts()
    assert [each.prompt for each in texts] == prompts
    assert [each.text for each in texts[:3]] == [" 0 away.", " 1 away.", " 2 away."]
    assert all(each.ended and each.tokens == 3 and each.logprob == -1.0 for each in texts)
    assert made.metrics["confidence"] == pytest.approx(math.exp(-1.0))
    assert made.metrics["tokens"] == 30
    assert "ours" not in made.path(TeacherTexts.TEXTS).read_text()


def test_a_model_of_this_machine_writes_the_same_again_and_says_how_sure_it_was(
    tmp_path: Path, prepared: PreparedData, teacher: TrainedModel
) -> None:
    one, again, other = (
        stage(
            Run.local(tmp_path / str(number), "write"),
            WriteConfig(ask=ask(texts_at_once=at_once)),
            prepared=prepared,
            trained=teacher,
        ).texts()
        for number, at_once in enumerate((4, 4, 3))
    )
    assert one == again
    assert [each.text for each in other] == [each.text for each in one]
    assert len({each.text for each in one}) > 5  # drawn, each with a seed of its own
    assert all(each.logprob is not None and each.logprob < 0 for each in one if each.text.strip())


def test_what_a_server_has_answered_is_kept_and_not_asked_for_again(
    tmp_path: Path, prepared: PreparedData, server: Server
) -> None:
    server.act = failing(503, lambda number: number == 1)
    with pytest.raises(ServiceError, match=r"answered 503 .*see its log\. 4 of 10 texts are kept: the same command"):
        asked(server.url, tmp_path, prepared)
    path = tmp_path / TeacherTexts.ANSWERS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed while it wrote
    server.act, before = telling, len(server.bodies)
    made = asked(server.url, tmp_path, prepared)
    prompts = [body["prompt"] for body in server.bodies[before:]]
    assert [len(each) if isinstance(each, list) else 1 for each in prompts] == [1, 4, 2]
    assert server.bodies[before]["seed"] == 3
    assert [each.number for each in made.texts()] == list(range(10))
    assert made.metrics["asked"] == 7
    assert not path.exists()


def test_another_try_helps_where_a_server_is_busy(tmp_path: Path, prepared: PreparedData, server: Server) -> None:
    server.act = failing(429, lambda number: number % 2 == 0)
    asked(server.url, tmp_path, prepared, retries=1)
    assert len(server.bodies) == 6


def test_a_server_that_refuses_log_probabilities_is_asked_without_them(
    tmp_path: Path, prepared: PreparedData, server: Server
) -> None:
    server.act = failing(400, lambda number: False)
    with pytest.raises(ServiceError, match=r"answered 400 .*finetune\.distill\.write\.logprobs=false"):
        asked(server.url, tmp_path, prepared, retries=3)
    assert len(server.bodies) == 1  # it would refuse again
    server.act = None
    made = asked(server.url, tmp_path, prepared, logprobs=False)
    assert "logprobs" not in server.bodies[-1]
    assert {each.logprob for each in made.texts()} == {None}
    assert "confidence" not in made.metrics


@pytest.mark.parametrize("redact", ["auto", "on", "off"])
def test_secrets_in_a_beginning_stay_here_if_they_must(
    server: Server, redact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prompt in ten has a key; ``auto`` sends it to this machine and hides it from others."""
    secret = "sk-proj-a1b2c3d4e5f6g7h8i9j0"
    server.complete = lambda prompt: f" and again: {prompt.split()[-1]}"
    prompts = [f"It was {year}" if year % 10 else f"the key of {year} is {secret}" for year in range(1800, 1820)]
    for here in (True, False):
        monkeypatch.setattr("components.clients.openai.OpenAIClient.is_on_this_machine", here)
        writer = ServedWriter(server.url, "", ask(redact=redact, logprobs=False))
        server.bodies.clear()
        answers = writer.answers(prompts, seed=0)
        writer.close()
        sent = json.dumps(server.bodies)
        assert (secret in sent) == (redact == "off" or (redact == "auto" and here))
        assert [each.text for each in answers] == [f" and again: {prompt.split()[-1]}" for prompt in prompts]


def test_a_wrong_key_is_told_apart(tmp_path: Path, prepared: PreparedData, server: Server) -> None:
    server.act = failing(401, lambda number: False)
    with pytest.raises(ServiceError, match=f"answered 401 .*set {API_KEY} to a key that it accepts"):
        asked(server.url, tmp_path, prepared)


def test_no_server_and_no_such_model(tmp_path: Path, prepared: PreparedData, server: Server) -> None:
    with pytest.raises(InputError, match=r"has no model 'small'; it has large: give .*#NAME"):
        asked(f"{server.url}#small", tmp_path, prepared)
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9/v1 cannot be reached .*: start it, or set"):
        asked("http://127.0.0.1:9/v1", tmp_path, prepared)
    with pytest.raises(InputError, match="must not hold a user or password"):
        asked(server.url.replace("http://", "http://me:word@"), tmp_path, prepared)


def test_empty_texts_are_counted_and_nothing_at_all_is_refused(
    tmp_path: Path, prepared: PreparedData, server: Server
) -> None:
    first = next(prompts_of(prepared, ask()))
    server.complete = lambda prompt: "" if prompt == first else " and so on."
    made = asked(server.url, tmp_path / "some", prepared)
    empty = sum(not each.text for each in made.texts())
    assert (made.metrics["empty"], made.metrics["texts"]) == (empty, 10 - empty)
    assert empty > 0
    server.complete = lambda prompt: "\n"
    with pytest.raises(InputError, match=r"wrote nothing after any of 10 beginnings.*seed asks again"):
        asked(server.url, tmp_path / "none", prepared)


def test_a_teacher_that_is_none_or_reads_too_little(
    tmp_path: Path, prepared: PreparedData, teacher: TrainedModel
) -> None:
    with pytest.raises(InputError, match=r"names no model: give .* the address of a server"):
        asked("", tmp_path, prepared)
    config = WriteConfig(ask=ask(max_tokens=27))
    with pytest.raises(InputError, match=r"reads 32 tokens, but .* asks for 33 \(prompt_tokens=6 and max_tokens=27\)"):
        stage(Run.local(tmp_path, "write"), config, prepared=prepared, trained=teacher)


def test_what_is_no_text_is_refused(tmp_path: Path, prepared: PreparedData, server: Server) -> None:
    server.complete = lambda prompt: 7
    with pytest.raises(ServiceError, match="answered with a completion that is not text"):
        asked(server.url, tmp_path, prepared)


def test_a_server_cannot_be_asked_about_the_text_of_the_corpus() -> None:
    with pytest.raises(ValidationError, match=r"does not tell all that it expects: .*finetune\.distill\.text=written"):
        DistillConfig(teacher="http://127.0.0.1:8000/v1")
    with pytest.raises(ValidationError, match=r"has no effect with finetune\.distill\.text=written"):
        DistillConfig.model_validate({"text": "written", "objective": {"need": 0.5}})


def test_lines_are_json_that_people_can_read(tmp_path: Path, prepared: PreparedData, server: Server) -> None:
    made = asked(server.url, tmp_path, prepared)
    lines = made.path(TeacherTexts.TEXTS).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == [" Brackwater, where"] * 10
