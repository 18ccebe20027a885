"""The engine says what the model says, to many at once, and gives places free."""

import queue
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.core.errors import InputError, LacewingError, ServiceError
from components.core.run import Run
from components.deployment import bundle as bundle_stage
from components.deployment.config import BundleStageConfig
from components.deployment.decoding import PREFILL_TOKENS, ContextLengthError, Delta, Request, ScoredToken
from components.deployment.engine import Engine, QueueFullError
from components.deployment.text_stream import Detokenizer
from components.model.bundle import Bundle
from components.model.generate import Sampling, generate
from tests.deployment.conftest import CONTEXT_LENGTH, SENTENCES, VOCAB_SIZE, Stages

Item = Delta | LacewingError
PROMPT = "The history of"
PATIENCE_SECONDS = 60.0


def _whole(items: "queue.SimpleQueue[Item]") -> Delta:
    """Read deltas up to the last one and join them."""
    text = ""
    tokens: list[ScoredToken] = []
    while True:
        item = items.get(timeout=PATIENCE_SECONDS)
        if isinstance(item, LacewingError):
            raise item
        text += item.text
        tokens += item.tokens
        if item.finish is not None:
            return Delta(text, tuple(tokens), item.finish)


def _ask(engine: Engine, request: Request) -> Delta:
    items: queue.SimpleQueue[Item] = queue.SimpleQueue()
    engine.submit([(request, items.put)])
    return _whole(items)


def _text(engine: Engine, ids: list[int]) -> str:
    """All whole characters of ``ids`` at once; that cuts do not matter is shown in ``test_text_stream``."""
    return Detokenizer().push(b"".join(map(engine.tokenizer.token_bytes, ids)))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def _sampling(engine: Engine, **changes: float) -> Sampling:
    tokenizer = engine.tokenizer
    stop_ids = frozenset({tokenizer.end_of_text_id, tokenizer.im_end_id})
    return Sampling(**changes, stop_ids=stop_ids, suppress_ids=frozenset({tokenizer.call_id}))  # type: ignore[arg-type]


def test_a_bundle_works_against_loops_unless_a_request_says_otherwise(stages: Stages, tmp_path: Path) -> None:
    made = bundle_stage.stage(Run.local(tmp_path, "bundle"), BundleStageConfig(name="tiny"), **stages._asdict())
    with Engine(made.folder, threads=1) as engine:
        prompt = engine.tokenizer.encode(PROMPT)

        def answer(**asked: float) -> list[int]:
            found = _ask(engine, Request(prompt, max_tokens=40, temperature=0.0, logprobs=0, **asked))  # type: ignore[arg-type]
            return [token.id for token in found.tokens]

        def plain(**penalties: float) -> list[int]:
            sampling = _sampling(engine, temperature=0.0, max_tokens=40, **penalties)
            return [step.token for step in generate(engine.model, prompt, sampling)]

        assert engine.presence_penalty == BundleStageConfig().presence_penalty == 1.0
        assert answer() == plain(presence_penalty=1.0) != plain()
        assert answer(presence_penalty=0.0) == plain()
        assert answer(presence_penalty=0.5, frequency_penalty=0.5) == plain(presence_penalty=0.5, frequency_penalty=0.5)


@pytest.mark.parametrize("text", SENTENCES)
def test_greedy_answers_equal_plain_generation(engine: Engine, text: str) -> None:
    prompt = engine.tokenizer.encode(text)
    plain = [step.token for step in generate(engine.model, prompt, _sampling(engine, temperature=0.0, max_tokens=50))]
    found = _ask(engine, Request(prompt, max_tokens=50, temperature=0.0, logprobs=0))
    assert [token.id for token in found.tokens] == plain
    assert text + found.text == _text(engine, prompt + plain)


def test_sampled_answers_equal_plain_generation_with_the_same_seed_and_end_at_a_stop_token(engine: Engine) -> None:
    prompt = engine.tokenizer.encode(PROMPT)
    ends = set()
    for seed in range(12):
        sampling = _sampling(engine, temperature=2.0, top_p=0.99, seed=seed, max_tokens=150)
        plain = list(generate(engine.model, prompt, sampling))
        request = Request(prompt, max_tokens=150, temperature=2.0, top_p=0.99, seed=seed, logprobs=0)
        found = _ask(engine, request)
        assert [token.id for token in found.tokens] == [step.token for step in plain]
        assert [token.logprob for token in found.tokens] == pytest.approx([step.logprob for step in plain], abs=1e-4)
        assert found.finish == ("stop" if plain[-1].token in sampling.stop_ids else "length")
        ends.add(found.finish)
    assert ends == {"stop", "length"}, "the seeds no longer show both ends"


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 3}, {"min_p": 0.2}, {"repetition_penalty": 1.5}, {"top_k": 9, "top_p": 0.9, "repetition_penalty": 0.7}],
)
def test_settings_of_sampling_reach_the_decoder(engine: Engine, settings: dict[str, float]) -> None:
    prompt = engine.tokenizer.encode(PROMPT)
    sampling = _sampling(engine, temperature=1.5, seed=4, max_tokens=40, **settings)
    found = _ask(engine, Request(prompt, max_tokens=40, temperature=1.5, seed=4, logprobs=0, **settings))  # type: ignore[arg-type]
    plain = [step.token for step in generate(engine.model, prompt, sampling)]
    assert [token.id for token in found.tokens] == plain
    free = _ask(engine, Request(prompt, max_tokens=40, temperature=1.5, seed=4, logprobs=0))
    assert [token.id for token in free.tokens] != plain


def test_without_a_seed_answers_vary(engine: Engine) -> None:
    prompt = engine.tokenizer.encode(PROMPT)
    assert len({_ask(engine, Request(prompt, max_tokens=30, temperature=1.5)).text for _ in range(3)}) > 1


@pytest.mark.parametrize("length", [1, 40, PREFILL_TOKENS, PREFILL_TOKENS + 1, 2 * PREFILL_TOKENS + 37])
def test_scores_of_an_echoed_prompt_are_the_log_softmax_with_call_masked(engine: Engine, length: int) -> None:
    torch.manual_seed(length)
    prompt = torch.randint(5, VOCAB_SIZE, (length,)).tolist()
    found = _ask(engine, Request(prompt, max_tokens=1, temperature=0.0, logprobs=3, echo=True))
    ids = [token.id for token in found.tokens]
    assert ids[:-1] == prompt
    with torch.inference_mode():
        logits = engine.model.logits(engine.model(torch.tensor([prompt])))[0]
        logits[:, engine.tokenizer.call_id] = float("-inf")
        expected = logits.log_softmax(dim=-1)
    assert found.tokens[0].logprob is None
    for position, token in enumerate(found.tokens[1:]):
        assert token.logprob == pytest.approx(expected[position, token.id].item(), abs=2e-3)
        best = expected[position].topk(3)
        assert [score for _, score in token.alternatives] == pytest.approx(best.values.tolist(), abs=2e-3)
    assert found.tokens[-1].logprob == found.tokens[-1].alternatives[0][1], "greedy takes the likeliest"


def test_offsets_say_where_each_token_begins_in_the_returned_text(engine: Engine) -> None:
    prompt = engine.tokenizer.encode(SENTENCES[3])
    found = _ask(engine, Request(prompt, max_tokens=20, temperature=0.0, logprobs=0, echo=True))
    assert found.text.startswith(SENTENCES[3])
    ids = [token.id for token in found.tokens]
    assert [token.offset for token in found.tokens] == [len(_text(engine, ids[:at])) for at in range(len(ids))]


def test_a_prompt_that_ends_inside_a_character_is_completed_by_the_answer(engine: Engine) -> None:
    """The bytes of the prompt's last character must not be lost between prompt and answer."""
    whole = engine.tokenizer.encode("ж")
    assert len(whole) == 2, "the test needs a character of two tokens"
    found = _ask(engine, Request(whole[:1], max_tokens=8, temperature=0.0, logprobs=0))
    assert found.text == _text(engine, whole[:1] + [token.id for token in found.tokens])


def test_the_answer_stops_before_a_stop_string(engine: Engine) -> None:
    prompt = engine.tokenizer.encode(PROMPT)
    free = _ask(engine, Request(prompt, max_tokens=60, temperature=0.0)).text
    stop = free[20:24]
    cut = _ask(engine, Request(prompt, max_tokens=60, temperature=0.0, stops=(stop,), logprobs=0))
    assert cut.finish == "stop"
    assert cut.text == free[: free.index(stop)]
    assert all(token.offset < len(cut.text) for token in cut.tokens)


def test_text_held_back_for_a_stop_string_is_returned_when_it_does_not_come(engine: Engine) -> None:
    prompt = engine.tokenizer.encode(PROMPT)
    free = _ask(engine, Request(prompt, max_tokens=20, temperature=0.0)).text
    never = free[-2:] + "\0"
    assert _ask(engine, Request(prompt, max_tokens=20, temperature=0.0, stops=(never,))).text == free


def test_the_answer_is_clipped_to_the_room_in_the_context(engine: Engine) -> None:
    prompt = [7] * (CONTEXT_LENGTH - 3)
    found = _ask(engine, Request(prompt, max_tokens=100, temperature=0.0, logprobs=0))
    assert (len(found.tokens), found.finish) == (3, "length")


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [
        ([], InputError, "empty"),
        ([VOCAB_SIZE], InputError, f"ids go from 0 to {VOCAB_SIZE - 1}"),
        ([-1], InputError, "token id -1"),
        ([7] * CONTEXT_LENGTH, ContextLengthError, f"{CONTEXT_LENGTH} tokens.*shorten the prompt to"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(
    engine: Engine, prompt: list[int], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        engine.submit([(Request(prompt), lambda item: None)])


def test_a_batch_with_one_bad_prompt_is_refused_whole(engine: Engine) -> None:
    with pytest.raises(InputError):
        engine.submit([(Request([7]), lambda item: None), (Request([]), lambda item: None)])
    assert (engine.active, engine.queued) == (0, 0)


def _greedy(engine: Engine, text: str, max_tokens: int) -> Request:
    return Request(engine.tokenizer.encode(text), max_tokens=max_tokens, temperature=0.0)


def _endless(engine: Engine) -> Request:
    return Request(engine.tokenizer.encode(PROMPT), temperature=0.0)


def test_a_short_request_does_not_wait_for_a_long_one(bundle: Bundle) -> None:
    with Engine(bundle.folder, threads=1) as engine:
        long_items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        (long,) = engine.submit([(_endless(engine), long_items.put)])
        first = long_items.get(timeout=PATIENCE_SECONDS)
        assert isinstance(first, Delta)
        short = _ask(engine, Request(engine.tokenizer.encode(PROMPT), max_tokens=5, temperature=0.0))
        assert short.finish == "length"
        assert long.generated_tokens < CONTEXT_LENGTH / 2


def test_a_full_queue_refuses_and_a_cancelled_request_makes_room(bundle: Bundle) -> None:
    with Engine(bundle.folder, max_concurrent_requests=1, max_queued_requests=1, threads=1) as engine:
        items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        (running,) = engine.submit([(_endless(engine), items.put)])
        _wait_until(lambda: engine.active == 1)
        (waiting,) = engine.submit([(_endless(engine), items.put)])
        with pytest.raises(QueueFullError, match="busy"):
            engine.submit([(_endless(engine), items.put)])
        waiting.cancel()
        assert engine.queued == 0
        running.cancel()
        assert _ask(engine, Request([7], max_tokens=1)).finish is not None
        assert running.generated_tokens < CONTEXT_LENGTH / 2


def test_more_prompts_than_ever_fit_are_the_callers_mistake(bundle: Bundle) -> None:
    with (
        Engine(bundle.folder, max_concurrent_requests=1, max_queued_requests=1, threads=1) as engine,
        pytest.raises(InputError, match="at most 2"),
    ):
        engine.submit([(Request([7]), lambda item: None)] * 3)


def test_closing_tells_those_who_wait(bundle: Bundle) -> None:
    items: queue.SimpleQueue[Item] = queue.SimpleQueue()
    with Engine(bundle.folder, threads=1) as engine:
        engine.submit([(_endless(engine), items.put)])
    with pytest.raises(ServiceError, match="shutting down"):
        _whole(items)
    with pytest.raises(ServiceError, match="stopped"):
        engine.submit([(_endless(engine), items.put)])
    assert not engine.running


def test_a_failure_in_one_request_leaves_the_others_alone(bundle: Bundle) -> None:
    """The failure is real: behind the engine's back, a request suppresses a token that does not exist."""
    with Engine(bundle.folder, threads=1) as engine:
        alone = _ask(engine, _greedy(engine, SENTENCES[1], 300))
        broken_items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        other_items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        broken, _ = engine.submit(
            [(_endless(engine), broken_items.put), (_greedy(engine, SENTENCES[1], 300), other_items.put)]
        )
        assert isinstance(broken_items.get(timeout=PATIENCE_SECONDS), Delta)
        row = next(row for row in engine._batch._rows if row.summary is broken.summary)
        row.row.suppressed = torch.tensor([VOCAB_SIZE + 1])
        with pytest.raises(ServiceError, match="decoding failed"):
            _whole(broken_items)
        assert _whole(other_items) == alone
        assert _ask(engine, Request([7], max_tokens=3, temperature=0.0)).finish == "length"
        assert engine.running
        assert (engine.active, engine._batch.active) == (0, 0)


def test_when_all_fail_together_the_engine_starts_anew(bundle: Bundle) -> None:
    """The failure is real: behind the engine's back, the weights become something that is no weights."""
    with Engine(bundle.folder, threads=1) as engine:
        items: list[queue.SimpleQueue[Item]] = [queue.SimpleQueue(), queue.SimpleQueue()]
        engine.submit([(_endless(engine), item.put) for item in items])
        assert isinstance(items[0].get(timeout=PATIENCE_SECONDS), Delta)
        weight = engine.model.embedding.weight
        engine.model.embedding.weight = torch.nn.Parameter(torch.ones(len(weight), 7))
        for item in items:
            with pytest.raises(ServiceError, match="decoding failed"):
                _whole(item)
        engine.model.embedding.weight = weight
        assert _ask(engine, Request([7], max_tokens=3, temperature=0.0)).finish == "length"


def _together(engine: Engine, requests: list[Request]) -> list[Delta]:
    items: list[queue.SimpleQueue[Item]] = [queue.SimpleQueue() for _ in requests]
    engine.submit([(request, item.put) for request, item in zip(requests, items, strict=True)])
    return [_whole(item) for item in items]


def test_many_at_once_are_answered_as_each_alone(engine: Engine) -> None:
    requests = [
        Request(
            engine.tokenizer.encode(text[: 9 * (number % 5 + 1)]),
            max_tokens=40,
            temperature=0.0,
            logprobs=1,
            echo=number % 3 == 0,
        )
        for number, text in enumerate(SENTENCES * 2)
    ]
    alone = [_ask(engine, request) for request in requests]
    for expected, found in zip(alone, _together(engine, requests), strict=True):
        assert (found.text, found.finish) == (expected.text, expected.finish)
        assert [token.id for token in found.tokens] == [token.id for token in expected.tokens]


def test_many_at_once_are_sampled_as_each_alone_and_from_what_the_model_says(engine: Engine) -> None:
    requests = [
        Request(engine.tokenizer.encode(text), max_tokens=30, temperature=1.2, seed=number, logprobs=0)
        for number, text in enumerate(SENTENCES * 2)
    ]
    for request, answer in zip(requests, _together(engine, requests), strict=True):
        ids = [token.id for token in answer.tokens]
        assert ids == [token.id for token in _ask(engine, request).tokens]
        whole = Request([*request.prompt, *ids], max_tokens=1, temperature=0.0, logprobs=0, echo=True)
        scores = _ask(engine, whole).tokens[len(request.prompt) : -1]
        assert [token.logprob for token in answer.tokens] == pytest.approx(
            [token.logprob for token in scores], abs=2e-3
        )


def test_call_cannot_be_part_of_a_prompt(engine: Engine) -> None:
    with pytest.raises(InputError, match="which the model may predict but never reads"):
        engine.submit([(Request([7, engine.tokenizer.call_id]), lambda item: None)])


def test_a_prompt_that_was_read_before_is_not_read_again_and_answered_alike(bundle: Bundle) -> None:
    with Engine(bundle.folder, threads=1) as engine:
        read: list[int] = []
        engine.model.embedding.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].numel()))
        request = Request(engine.tokenizer.encode(SENTENCES[1] * 3), max_tokens=30, temperature=0.0, logprobs=1)
        first = _ask(engine, request)
        assert max(read) == len(request.prompt)
        read.clear()
        again = _ask(engine, request)
        assert max(read) < 64  # what is left of a block
        assert (again.text, [token.logprob for token in again.tokens]) == (
            first.text,
            [token.logprob for token in first.tokens],
        )


def test_in_bfloat16_it_says_what_the_rounded_model_says_to_one_and_to_many(bundle: Bundle) -> None:
    with Engine(bundle.folder, threads=1, dtype="bfloat16") as engine:
        assert engine.model.output_weight.dtype == torch.bfloat16
        requests = [
            Request(engine.tokenizer.encode(text), max_tokens=25, temperature=0.0, logprobs=2) for text in SENTENCES
        ]
        alone = [_ask(engine, request) for request in requests]
        for request, answer in zip(requests, alone, strict=True):
            plain = generate(engine.model, request.prompt, _sampling(engine, temperature=0.0, max_tokens=25))
            assert [token.id for token in answer.tokens] == [step.token for step in plain]
        assert [answer.text for answer in _together(engine, requests)] == [answer.text for answer in alone]
        (scored,) = [_ask(engine, Request(requests[0].prompt, max_tokens=1, temperature=0.0, logprobs=0, echo=True))]
        assert [token.logprob is None for token in scored.tokens] == [True] + [False] * len(requests[0].prompt)
