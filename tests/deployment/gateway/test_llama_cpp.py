"""The contract with a real llama.cpp: the same answers as our own cascade, on both sides of the gateway."""

import codecs
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pytest
import torch

from components.cascade.authors import AuthorSpan, author_spans
from components.cascade.call_scores import call_score
from components.cascade.decoding import CascadeAnswer, CascadeRequest
from components.cascade.reply_tokens import ends_inside_character
from components.data.tokenizer import TextTokenizer
from components.deployment.decoding import Request
from components.deployment.gateway.answering import GatewayAnswer
from components.deployment.gateway.engine import GatewayEngine
from components.deployment.gateway.upstream import Piece
from components.model.bundle import Bundle
from components.model.generate import Sampling
from tests.deployment.conftest import Fact
from tests.deployment.export.llama_cpp import LlamaCpp
from tests.deployment.gateway.answers import SECONDS, answer
from tests.deployment.gateway.conftest import in_process, settings

TOKENS = 40


@pytest.fixture(scope="module")
def engine(calling: Bundle, upstream: LlamaCpp) -> Iterator[GatewayEngine]:
    """The gateway, which asks for seven tokens at a time."""
    with GatewayEngine(calling.folder, settings(upstream.server.listening_address + "/v1", piece_tokens=7)) as engine:
        yield engine


def prompts(tokenizer: TextTokenizer, fact: Fact) -> list[list[int]]:
    texts = [fact.prompt, "The town of", "In 1902, Größe 東", "🙂"]
    cut = tokenizer.encode("Fluß 東")[:-1]  # may end within a character
    return [[tokenizer.end_of_text_id, *tokenizer.encode(text)] for text in texts] + [cut]


def spans_of(answer: CascadeAnswer, tokenizer: TextTokenizer, prompt: Sequence[int]) -> list[AuthorSpan]:
    """Who wrote what in an answer of our own cascade; its first bytes may complete a character of the prompt."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(b"".join(map(tokenizer.token_bytes, prompt)))
    return author_spans((token.author, decoder.decode(tokenizer.token_bytes(token.id))) for token in answer.tokens)


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_the_text_is_that_of_our_own_cascade(calling: Bundle, engine: GatewayEngine, fact: Fact, budget: float) -> None:
    cascade, tokenizer = in_process(calling, budget), engine.tokenizer
    ends = frozenset({tokenizer.end_of_text_id, tokenizer.im_end_id})
    greedy = Sampling(temperature=0, max_tokens=TOKENS, stop_ids=ends)
    asked = prompts(tokenizer, fact)
    outcomes: Counter[str] = Counter()
    for prompt, ours in zip(asked, cascade.answers([CascadeRequest(prompt, greedy) for prompt in asked]), strict=True):
        deltas, counts = answer(engine, Request(prompt, max_tokens=TOKENS, temperature=0.0, call_budget=budget))
        spans = spans_of(ours, tokenizer, prompt)
        assert list(deltas[-1].authors) == spans
        assert "".join(delta.text for delta in deltas) == "".join(span.text for span in spans)
        assert deltas[-1].finish == ours.finish
        assert counts == {name: value for name, value in asdict(ours.summary).items() if name not in SECONDS}
        outcomes.update(token.call for token in ours.tokens)
    assert (outcomes["empty"] > 0) == (budget > 0)
    assert (outcomes["answered"] > 0) == (budget > 0.5), "the fact is asked for, and looked up"


def test_half_a_character_is_no_place_to_call(calling: Bundle, engine: GatewayEngine) -> None:
    """At a budget of 1 the small model writes only what completes a character, and what the helper does not know."""
    tokenizer = engine.tokenizer
    (first, *_) = tokenizer.encode("東")
    assert ends_inside_character(tokenizer.token_bytes(first))
    request = Request([tokenizer.end_of_text_id, first], max_tokens=8, temperature=0.0, call_budget=1.0)
    _, counts = answer(engine, request)
    assert counts["calls"] < counts["decisions"]


@pytest.mark.parametrize("budget", [0.0, 0.5])
def test_penalties_count_the_answer_and_leave_the_calls_alone(
    calling: Bundle, engine: GatewayEngine, fact: Fact, budget: float
) -> None:
    """Greedy text with penalties is that of our own cascade, whose threshold is on the logits as they were."""
    cascade, tokenizer = in_process(calling, budget), engine.tokenizer
    ends = frozenset({tokenizer.end_of_text_id, tokenizer.im_end_id})
    penalties = {"presence_penalty": 1.5, "frequency_penalty": 0.25}
    prompt = [tokenizer.end_of_text_id, *tokenizer.encode(fact.prompt)]
    sampling = Sampling(temperature=0, max_tokens=TOKENS, stop_ids=ends, **penalties)
    (ours,) = cascade.answers([CascadeRequest(prompt, sampling)])
    plain = answer(engine, Request(prompt, max_tokens=TOKENS, temperature=0.0, call_budget=budget))
    asked = Request(prompt, max_tokens=TOKENS, temperature=0.0, call_budget=budget, **penalties)
    deltas, counts = answer(engine, asked)
    assert "".join(delta.text for delta in deltas) == "".join(span.text for span in spans_of(ours, tokenizer, prompt))
    assert counts == {name: value for name, value in asdict(ours.summary).items() if name not in SECONDS}
    assert deltas != plain[0], "the penalties do something"


def test_at_a_temperature_it_calls_exactly_where_the_margin_is_over_the_threshold(
    calling: Bundle, engine: GatewayEngine, fact: Fact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every decision of a drawn text, judged again by our own model."""
    tokenizer, model = engine.tokenizer, calling.load()
    decided: list[tuple[list[int], bool]] = []
    asked_twice = GatewayAnswer._asked_twice

    def noted(self: GatewayAnswer) -> Piece:
        before = list(self._ids)
        piece = asked_twice(self)
        decided.append((before, piece.end == "call"))
        return piece

    monkeypatch.setattr(GatewayAnswer, "_asked_twice", noted)
    texts = set()
    prompt = [tokenizer.end_of_text_id, *tokenizer.encode(fact.prompt)]
    for seed in range(4):
        request = Request(prompt, max_tokens=24, temperature=1.0, top_p=0.95, seed=seed, call_budget=0.5)
        deltas, _ = answer(engine, request)
        texts.add("".join(delta.text for delta in deltas))
        assert answer(engine, request)[0] == deltas, "the same seed, the same text"
    assert len(texts) == 4
    threshold = -engine.bias(0.5)
    with torch.inference_mode():
        for ids, called in decided:
            logits = model.logits(model(torch.tensor([ids])))[0, -1:]
            assert called == bool(call_score(logits, tokenizer.call_id, "logit_margin") > threshold)
    assert {called for _, called in decided} == {True, False}


def test_the_likeliest_of_one_is_the_greedy_text(engine: GatewayEngine, fact: Fact) -> None:
    """What is passed on beside the temperature reaches the server: among one token there is nothing to draw."""
    prompt = [engine.tokenizer.end_of_text_id, *engine.tokenizer.encode(fact.prompt)]
    request = Request(prompt, max_tokens=16, temperature=0.0, call_budget=0.5)
    greedy = answer(engine, request)
    for narrowed in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        drawn = Request(prompt, max_tokens=16, temperature=1.5, call_budget=0.5, seed=1, **narrowed)
        assert answer(engine, drawn)[0][-1].authors == greedy[0][-1].authors
