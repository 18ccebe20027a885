"""Servers that cannot be scored, or do not answer, are told apart from models that know nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.core.artifact import CHECKPOINTS
from components.core.errors import InputError, ServiceError
from components.core.run import Run
from components.data.config import DataConfig
from components.evaluation.evaluate import PARTS, stage
from components.evaluation.evaluate_config import EndpointConfig, EvaluateConfig, EvaluateStageConfig, TextConfig
from components.evaluation.score_table import read_scores
from components.evaluation.text_models.base import Continuation, Draw
from components.evaluation.text_models.endpoint import API_KEY, EndpointModel
from components.labelling.config import LabelConfig
from tests.clients.server import Handler, Server

ASKED = [Continuation("Ada was born in", " Orlen")]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def model(server: Server, **config: Any) -> EndpointModel:
    return EndpointModel("far", server.url, "large", EndpointConfig(**config))


def echoing(server: Server, logprob: float = -1.5) -> None:
    """Let ``server`` read one character as one token, each as likely as the others, and write one more."""

    def answer(handler: Handler) -> None:
        asked = handler.server.bodies[-1]["prompt"]
        choices = []
        for place, prompt in enumerate(asked if isinstance(asked, list) else [asked]):
            text = prompt + "!"
            scores = {
                "token_logprobs": [None, *[logprob] * (len(text) - 1)],
                "text_offset": list(range(len(text))),
                "top_logprobs": [None, *[{"a": -0.5}] * (len(text) - 1)],
            }
            choices.append({"index": place, "text": text, "logprobs": scores})
        handler.send({"choices": choices})

    server.act = answer


def test_the_tokens_of_the_continuation_alone_are_counted(server: Server) -> None:
    echoing(server)
    (found,) = model(server).likelihoods(ASKED)
    assert (found.log_likelihood, found.tokens, found.greedy) == (-1.5 * 6, 6, False)
    body = server.bodies[0]
    assert (body["echo"], body["logprobs"], body["max_tokens"], body["model"]) == (True, 1, 1, "large")


def test_a_start_token_stands_before_every_text_and_is_not_counted(server: Server) -> None:
    echoing(server)
    (scores,) = model(server, start="<s>").token_scores(["Ada"])
    assert scores.sizes.tolist() == [1, 1, 1]
    assert scores.nats.tolist() == [1.5] * 3
    assert server.bodies[0]["prompt"] == "<s>Ada"


def test_a_server_without_echo_is_refused_and_not_scored_as_chance(server: Server) -> None:
    far = model(server)
    with pytest.raises(InputError, match="cannot be scored: it answers without log-probabilities"):
        far.likelihoods(ASKED)
    assert far.write(["Ada was born in"], 4)[0].text == " Brackwater, where"  # it can still write


def test_text_can_be_drawn(server: Server) -> None:
    model(server, parallel_texts=2).write(["a", "b", "c"], 4, draw=Draw(temperature=0.5, top_p=0.9, seed=7))
    assert [(body["temperature"], body["top_p"], body["seed"]) for body in server.bodies] == [
        (0.5, 0.9, 7),
        (0.5, 0.9, 9),
    ]


def test_a_server_that_refuses_the_request_is_refused_with_its_words(server: Server) -> None:
    server.act = lambda handler: handler.send({"error": "echo is not supported"}, 400)
    with pytest.raises(
        InputError, match=r"cannot be scored: it answered 400.*echo is not supported.*max_characters below 1,000"
    ):
        model(server).likelihoods(ASKED)


def test_a_server_that_does_not_repeat_the_prompt_is_refused(server: Server) -> None:
    scores = {"token_logprobs": [-1.0], "text_offset": [0], "top_logprobs": [{"a": -1.0}]}
    choice = {"index": 0, "text": " Orlen", "logprobs": scores}
    server.act = lambda handler: handler.send({"choices": [choice]})
    with pytest.raises(InputError, match="does not repeat the prompt"):
        model(server).likelihoods(ASKED)


def test_a_key_is_taken_from_the_environment_and_a_password_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY, "ours")
    echoing(server)
    model(server).likelihoods(ASKED)
    assert server.headers[0]["Authorization"] == "Bearer ours"
    with pytest.raises(InputError, match="must not hold a user or password"):
        EndpointModel("far", server.url.replace("http://", "http://me:word@"))


def test_an_evaluation_whose_server_goes_away_stops_cleanly_and_goes_on_later(tmp_path: Path, server: Server) -> None:
    texts = [f"Document {number} of many." for number in range(6)]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = EvaluateStageConfig(
        evaluate=EvaluateConfig(
            model=f"{server.url}#large",
            text=TextConfig(piece_bytes=1, samples=0),
            endpoint=EndpointConfig(start="<s>"),
        ),
        data=DataConfig(sources=[str(source)]),
        label=LabelConfig(annotator="capitals"),
    )
    echoing(server)
    works = server.act
    assert works is not None
    server.act = lambda handler: works(handler) if len(server.bodies) <= 2 else handler.send({"error": "gone"}, 503)
    run = Run.local(tmp_path / "run", "evaluate")
    with pytest.raises(ServiceError, match=r"answered 503.*What was scored before is kept"):
        stage(run, config)
    assert len(list((run.folder / CHECKPOINTS / PARTS).glob("*.parquet"))) == 2
    server.act = works
    server.bodies.clear()
    table = read_scores(stage(run, config).scores)
    assert len(server.bodies) == 4  # two documents were scored before
    assert set(table["model"].to_pylist()) == {"large"}
    assert sum(metric == "bits_per_byte" for metric in table["metric"].to_pylist()) == 6


def test_an_unreachable_server_is_a_service_error() -> None:
    with pytest.raises(ServiceError, match=r"cannot be reached.*run the same command again"):
        EndpointModel("far", "http://127.0.0.1:9/v1").likelihoods(ASKED)
