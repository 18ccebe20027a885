"""The plugin at vLLM's published interface, declared again in ``vllm_interface``; no vLLM runs here."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cascade.call_scores import call_score
from components.core.errors import InputError
from components.deployment.decoding import Request
from components.deployment.gateway.engine import GatewayEngine
from components.model.bundle import Bundle
from tests.deployment.conftest import Fact
from tests.deployment.gateway import vllm_interface
from tests.deployment.gateway.answers import answer
from tests.deployment.gateway.conftest import settings as gateway_settings
from tests.deployment.gateway.published import Published, listening
from tests.deployment.gateway.vllm_interface import Batch, LogitsProcessor, SamplingParams

VOCAB_SIZE, CALL_ID = 12, 3


@pytest.fixture(scope="module")
def plugin() -> Iterator[ModuleType]:
    with vllm_interface.plugin() as module:
        yield module


def processor(plugin: ModuleType, vocab_size: int = VOCAB_SIZE) -> LogitsProcessor:
    made = plugin.CallThreshold(vllm_interface.config(vocab_size), torch.device("cpu"), False)
    assert isinstance(made, LogitsProcessor)
    return made


def asking(threshold: float, call_id: int = CALL_ID) -> SamplingParams:
    return SamplingParams({"lacewing_call_id": call_id, "lacewing_call_threshold": threshold})


def test_greedy_decoding_is_changed(plugin: ModuleType) -> None:
    assert not processor(plugin).is_argmax_invariant()


@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(0, 5)),
            st.lists(st.one_of(st.none(), st.floats(-3, 3)), max_size=3),
            st.one_of(st.none(), st.tuples(st.integers(0, 4), st.integers(0, 4))),
        ),
        max_size=8,
    ),
    st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_every_row_follows_its_own_request_whoever_comes_and_goes(
    plugin: ModuleType, steps: list[tuple[set[int], list[float | None], tuple[int, int] | None]], seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    batch, ours = Batch(), processor(plugin)
    for leaving, joining, swap in steps:
        requests = [SamplingParams() if each is None else asking(each) for each in joining]
        ours.update_state(batch.step([row for row in leaving if row < len(batch.rows)], requests, swap))
        ours.update_state(None)  # nothing has changed
        logits = torch.randn(len(batch.rows), VOCAB_SIZE, generator=draw)
        margins = call_score(logits, CALL_ID, "logit_margin")
        for before, after, margin, params in zip(logits, ours.apply(logits.clone()), margins, batch.rows, strict=True):
            assert params is not None
            if params.extra_args is None:
                assert torch.equal(after, before)
                continue
            called = bool(margin > params.extra_args["lacewing_call_threshold"])
            kept = torch.isfinite(after)
            assert kept[CALL_ID] == called
            assert int(kept.sum()) == (1 if called else VOCAB_SIZE - 1)
            assert torch.equal(after[kept], before[kept]), "what may be drawn keeps its probabilities"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lacewing_call_id": 3}, "lacewing_call_threshold must be a finite number; given None"),
        ({"lacewing_call_threshold": 0.5}, "lacewing_call_id must be the id of <CALL>.*given None"),
        ({"lacewing_call_id": "3", "lacewing_call_threshold": 0.5}, "given '3'"),
        ({"lacewing_call_id": -1, "lacewing_call_threshold": 0.5}, "given -1"),
        ({"lacewing_call_id": 3, "lacewing_call_threshold": float("nan")}, "given nan"),
    ],
)
def test_wrong_arguments_are_refused_and_never_end_the_engine(
    plugin: ModuleType, arguments: dict[str, Any], words: str
) -> None:
    params = SamplingParams(arguments)
    with pytest.raises(ValueError, match=words):
        plugin.CallThreshold.validate_params(params)
    ours, logits = processor(plugin), torch.randn(1, VOCAB_SIZE)
    ours.update_state(Batch().step([], [params], None))
    assert torch.equal(ours.apply(logits.clone()), logits)


def test_an_id_beyond_the_vocabulary_is_left_alone(plugin: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    params = asking(-10.0, call_id=VOCAB_SIZE)
    plugin.CallThreshold.validate_params(params)
    ours, logits = processor(plugin), torch.randn(1, VOCAB_SIZE)
    ours.update_state(Batch().step([], [params], None))
    assert torch.equal(ours.apply(logits.clone()), logits)
    assert "is not in the vocabulary of 12" in caplog.text


@pytest.fixture
def engine(plugin: ModuleType, calling: Bundle) -> Iterator[GatewayEngine]:
    """A gateway before a server that runs the plugin, and knows no logit bias."""

    def sampler(logits: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
        ours = processor(plugin, len(logits))
        ours.update_state(Batch().step([], [SamplingParams(arguments)], None))
        return ours.apply(logits.unsqueeze(0))[0]

    with (
        listening(Published(calling, "vllm", "bias", sampler)) as url,
        GatewayEngine(calling.folder, gateway_settings(url, piece_tokens=6)) as engine,
    ):
        yield engine


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_gateway_gives_it_the_threshold_at_any_temperature(
    temperature: float, engine: GatewayEngine, calling: Bundle, fact: Fact
) -> None:
    prompt = [engine.tokenizer.end_of_text_id, *engine.tokenizer.encode(fact.prompt)]
    request = Request(prompt, max_tokens=24, temperature=temperature, seed=5, call_budget=0.5)
    deltas, counts = answer(engine, request)
    assert 0 < counts["calls"] < counts["decisions"]
    assert answer(engine, request)[0] == deltas, "the same seed, the same text"
    with pytest.raises(InputError, match="presence_penalty: the server behind counts only tokens of the piece"):
        answer(engine, Request(prompt, max_tokens=2, presence_penalty=0.5))
