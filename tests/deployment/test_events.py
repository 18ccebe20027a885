"""Events of a stream: those whose JSON is made once are those that pydantic would write."""

import json
from typing import Any

import pytest

from components.deployment.decoding import Delta, ScoredToken
from components.deployment.engine import Engine
from components.deployment.events import Events
from components.deployment.pieces import Piece
from components.deployment.responses import ChatBuilder, CompletionBuilder, Signature

SIGNATURE = Signature("7", "tiny", "v1")
PIECE = Piece("é", 1, "small", 0.25, "none", 0.1, 0.0)
# Quotes, a line's end, an emoji, and what is no text of JSON.
DELTAS = [Delta(text, pieces=(PIECE,)) for text in ("one", ' "two"\n', "🚀\\", "\x00\u2028</script>", "five")]
DELTAS += [Delta("scored", (ScoredToken(7, -0.5, (), 0),)), Delta("", finish="length")]

OPTIONS: list[dict[str, Any]] = [{}, {"logprobs": True}, {"helper": "oracle"}, {"helper": "oracle", "pieces": True}]


@pytest.mark.parametrize("kind", [CompletionBuilder, ChatBuilder])
@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"logprobs": True}, {"helper": "oracle"}, {"helper": "oracle", "pieces": True}]
)
def test_every_event_is_its_chunk(
    kind: type[Any], include_usage: bool, options: dict[str, Any], engine: Engine
) -> None:
    def builder() -> Any:
        return kind(SIGNATURE, engine.tokenizer, **{"logprobs": False, "helper": None, **options})

    events, plain = Events(builder(), include_usage), builder()
    for index, delta in [(0, each) for each in DELTAS]:
        hidden = set() if include_usage else {"usage"}
        chunks = [chunk.model_dump_json(exclude=hidden) for chunk in plain.chunks(index, delta)]
        found = list(events.of(index, delta))
        assert [_data(event) for event in found] == [_timeless(json.loads(chunk)) for chunk in chunks]
        assert [len(event) for event in found] == [len(f"data: {chunk}\n\n") for chunk in chunks]


def test_prompts_keep_their_numbers(engine: Engine) -> None:
    events = Events(CompletionBuilder(SIGNATURE, engine.tokenizer, logprobs=False, helper=None), include_usage=False)
    told = [(at % 3, f"text {at}") for at in range(9)]
    choices = [_data(event)["choices"][0] for index, text in told for event in events.of(index, Delta(text))]
    assert [(choice["index"], choice["text"]) for choice in choices] == told


def _data(event: str) -> dict[str, Any]:
    assert event.startswith("data: ")
    assert event.endswith("\n\n")
    assert event.count("\n") == 2
    return _timeless(json.loads(event.removeprefix("data: ")))


def _timeless(chunk: dict[str, Any]) -> dict[str, Any]:
    """The two builders may be made in different seconds."""
    return {name: value for name, value in chunk.items() if name != "created"}
