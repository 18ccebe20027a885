import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cascade.calibration import CallCalibration
from components.cascade.call_scores import call_probability, call_score
from components.cascade.config import CalibratedScore, CascadeConfig
from components.cascade.decoding import Cascade, CascadeAnswer, CascadeRequest, CascadeStep
from components.cascade.helpers.base import Call, HelperError, Reply
from components.core.errors import InputError
from components.model.generate import Sampling, generate
from components.model.transformer import KeyValueCache, Transformer
from tests.fakes import SENTENCES, Told, calibration, speaker, start, tokenizer

TOKENS = tokenizer()
SMALL = speaker(TOKENS)
PROMPTS = [start(TOKENS, sentence[: 7 * (i + 1)]) for i, sentence in enumerate(SENTENCES)]


def cascade(helper: Told | None, record: CallCalibration | None = None, **config: object) -> Cascade:
    return Cascade(SMALL, TOKENS, helper, record or calibration(), CascadeConfig.model_validate(config))


def requests(max_tokens: int = 20, **values: object) -> list[CascadeRequest]:
    return [
        CascadeRequest(prompt, Sampling(temperature=0, max_tokens=max_tokens), **values)  # type: ignore[arg-type]
        for prompt in PROMPTS
    ]


def plain(prompt: Sequence[int], sampling: Sampling, model: Transformer = SMALL) -> list[int]:
    suppressed = Sampling(**{**vars(sampling), "suppress_ids": frozenset([TOKENS.call_id])})
    return [step.token for step in generate(model, prompt, suppressed)]


@pytest.mark.parametrize("sampling", [Sampling(temperature=0, max_tokens=15), Sampling(seed=3, max_tokens=15)])
@pytest.mark.parametrize("why", ["budget 0", "no facts", "no helper", "max_calls 0"])
def test_without_calls_it_is_token_for_token_the_plain_model(sampling: Sampling, why: str) -> None:
    helper = None if why == "no helper" else Told(" 1987")
    asked = cascade(helper, calibration(factual=why != "no facts"), budget=0.0 if why == "budget 0" else 0.5)
    answers = asked.answers(
        [CascadeRequest(prompt, sampling, max_calls=0 if why == "max_calls 0" else None) for prompt in PROMPTS], batch=3
    )
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer.ids == plain(prompt, sampling)
        assert answer.summary.calls == 0
        assert {token.author for token in answer.tokens} == {"small"}
    assert helper is None or not helper.calls


def test_penalties_count_both_authors_and_never_change_a_reply() -> None:
    """Without calls they do what they do to the plain model; with calls the reply counts, and is written as it is."""
    sampling = Sampling(temperature=0, max_tokens=20, presence_penalty=1.5, frequency_penalty=0.5)
    alone = cascade(None).answers([CascadeRequest(prompt, sampling) for prompt in PROMPTS])
    assert [answer.ids for answer in alone] == [plain(prompt, sampling) for prompt in PROMPTS]
    assert [answer.ids for answer in alone] != [
        plain(prompt, Sampling(temperature=0, max_tokens=20)) for prompt in PROMPTS
    ]
    (told,) = cascade(Told(" 1987"), budget=1.0).answers([CascadeRequest(PROMPTS[0], sampling)])
    assert TOKENS.decode(told.ids).startswith(" 1987 1987 1987")  # the small model would never
    rare = CascadeRequest(PROMPTS[0], sampling, max_calls=1)
    (mixed,) = cascade(Told(TOKENS.decode([alone[0].ids[0]])), budget=1.0).answers([rare])
    assert mixed.tokens[0].author == "helper"
    assert mixed.ids == alone[0].ids


@pytest.mark.parametrize("reply", [" 1987", " Łódź", "ź", ",", " University of Warszawa"])
@pytest.mark.parametrize("budget", [0.15, 0.6, 1.0])
def test_call_is_never_read_nor_written_and_the_text_is_what_both_wrote(reply: str, budget: float) -> None:
    read: list[int] = []
    helper = Told(reply)
    hook = SMALL.embedding.register_forward_pre_hook(lambda module, inputs: read.extend(inputs[0].flatten().tolist()))
    try:
        # Scores above all of the calibration's: it would call everywhere if the budget allowed.
        answers = cascade(helper, calibration(0.0, 1e-9), budget=budget).answers(requests())
    finally:
        hook.remove()
    assert TOKENS.call_id not in read
    assert helper.calls
    for answer in answers:
        assert TOKENS.call_id not in answer.ids
        assert sum(token.author == "helper" for token in answer.tokens) == answer.summary.helper_tokens
        assert answer.summary.helper_tokens + answer.summary.small_tokens == len(answer.ids)
        assert TOKENS.decode(answer.ids).count(reply[:-1] or reply) >= answer.summary.calls - 1  # the last may be cut
    for call in helper.calls:
        assert TOKENS.call_id not in call.ids
        assert call.text == TOKENS.decode(call.ids)
        assert "<CALL>" not in call.text


@settings(max_examples=12, deadline=None)
@given(
    budget=st.floats(0, 1),
    max_tokens=st.integers(1, 25),
    max_calls=st.none() | st.integers(0, 5),
    rule=st.sampled_from(["running_quantile", "fixed"]),
    threshold=st.sampled_from([1e-12, 0.01, 1.0]),
    reply=st.sampled_from([" 1987", "", "\x00"]),
)
def test_the_calls_of_a_request_never_exceed_its_budget(
    budget: float, max_tokens: int, max_calls: int | None, rule: str, threshold: float, reply: str
) -> None:
    asked = cascade(Told(reply), calibration(0.0, threshold), rule=rule, budget=0.9)
    for answer in asked.answers(requests(max_tokens, budget=budget, max_calls=max_calls)[:2]):
        assert answer.summary.calls <= math.floor(budget * max_tokens)
        assert max_calls is None or answer.summary.calls <= max_calls
        assert len(answer.ids) <= max_tokens


def test_a_budget_of_one_asks_at_every_decision() -> None:
    for answer in cascade(Told(" 1987"), budget=1.0).answers(requests(12)):
        assert answer.summary.calls == answer.summary.decisions > 0
        assert {token.author for token in answer.tokens} == {"helper"}


def test_calls_of_one_step_are_put_together() -> None:
    helper = Told(" 1987")
    answers = cascade(helper, budget=1.0).answers(requests(8))
    assert len(helper.batches[0]) == len(PROMPTS)
    assert sum(map(len, helper.batches)) == sum(answer.summary.calls for answer in answers)
    assert len({call.session for call in helper.calls}) == len(PROMPTS)
    assert sorted(helper.forgotten) == sorted({call.session for call in helper.calls})


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (HelperError("too late"), "failed"),
        ("bell\x07", "failed"),
        ("\ud800", "failed"),
        ("bro\ufffdken", "failed"),
        (" <CALL>", "failed"),
        ("x" * 5000, "failed"),
        ("", "empty"),
        ("  ", "empty"),
    ],
)
def test_a_call_that_brings_nothing_costs_only_the_help(said: str | HelperError, outcome: str) -> None:
    answers = cascade(Told(said), budget=1.0).answers(requests(10))
    for request, answer in zip(requests(10), answers, strict=True):
        assert answer.ids == plain(request.prompt, request.sampling)
        assert {(token.author, token.call) for token in answer.tokens} <= {("small", outcome), ("small", "none")}
        assert answer.summary.calls == getattr(answer.summary, f"{outcome}_calls") > 0
        assert answer.summary.degraded == (outcome == "failed")


def test_a_helper_that_gives_up_on_all_calls_at_once_is_survived() -> None:
    class Down(Told):
        def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
            raise HelperError("unreachable")

    (answer,) = cascade(Down(""), budget=1.0).answers(requests(6)[:1])
    assert answer.ids == plain(PROMPTS[0], Sampling(temperature=0, max_tokens=6))
    assert answer.summary.degraded


def test_a_failure_for_one_request_is_not_one_for_the_others() -> None:
    first: list[str] = []

    def say(call: Call) -> str | HelperError:
        first.append(call.session)
        return HelperError("no") if call.session == first[0] else " 1987"

    answers = cascade(Told(say), budget=1.0).answers(requests(6))
    assert [answer.summary.degraded for answer in answers] == [True] + [False] * (len(PROMPTS) - 1)


def test_a_request_gets_the_same_answer_alone_and_among_others() -> None:
    def say(call: Call) -> str:
        return f" {len(call.text)}"

    together = cascade(Told(say), calibration(0.0, 0.02), budget=0.3).answers(requests(), batch=4)
    alone = [cascade(Told(say), calibration(0.0, 0.02), budget=0.3).answers([request])[0] for request in requests()]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert any(answer.summary.calls for answer in together)


@pytest.mark.parametrize("score", ["call", "entropy", "margin", "logit_margin"])
def test_calls_stand_where_the_score_is_above_the_threshold(score: CalibratedScore) -> None:
    """Also for a model that never learned to call: entropy or margin take the place of P(CALL)."""
    ids = plain(PROMPTS[0], Sampling(temperature=0, max_tokens=30))
    with torch.no_grad():
        logits = SMALL.logits(SMALL(torch.tensor([PROMPTS[0] + ids])))[0, len(PROMPTS[0]) - 1 : -1]
    scores = call_score(logits, TOKENS.call_id, score)
    middle = scores.sort().values[20:22].mean().item()
    record = calibration(middle - 1.0, middle + 1.0)  # half of it lies above the threshold
    asked = cascade(Told(""), record, budget=0.5, rule="fixed")
    asked.config = asked.config.model_copy(update={"call_score": score})  # of these, logit_margin is no setting
    (answer,) = asked.answers([CascadeRequest(PROMPTS[0], Sampling(temperature=0, max_tokens=30))])
    assert answer.ids == ids
    assert [token.call == "empty" for token in answer.tokens] == (scores > middle).tolist()
    probabilities = call_probability(logits, TOKENS.call_id).tolist()
    assert [token.call_probability for token in answer.tokens] == pytest.approx(probabilities, rel=1e-3)


def test_call_probability_is_the_softmax_and_keeps_its_order_near_one() -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(call_probability(logits, 4), logits.double().softmax(-1)[:, 4], rtol=1e-6, atol=0)
    certain = torch.zeros(2, 9)
    certain[:, 4] = torch.tensor([25.0, 26.0])
    low, high = call_probability(certain, 4).tolist()
    assert low < high < 1.0
    assert certain.softmax(-1)[0, 4] == certain.softmax(-1)[1, 4]  # what fp32 would have made of it


def test_entropy_and_margin_do_not_see_call() -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    others = torch.cat((logits[:, :4], logits[:, 5:]), dim=1).double().softmax(-1)
    entropy = torch.distributions.Categorical(others).entropy()
    torch.testing.assert_close(call_score(logits, 4, "entropy"), entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(call_score(logits, 4, "margin"), 1 - others.amax(-1), rtol=1e-5, atol=1e-5)


def test_no_call_is_made_within_a_character() -> None:
    """ "ź" is two bytes; after the first of them a helper could not be told where the text stands."""
    half = [id for id in range(TOKENS.vocab_size) if TOKENS.token_bytes(id) == "ź".encode()[:1]]
    helper = Told(" 1987")
    decoding = cascade(helper, budget=1.0).decoding()
    decoding.add(CascadeRequest([*start(TOKENS, "Łód"), *half], Sampling(temperature=0, max_tokens=5)))
    (step,) = decoding.step()
    assert step.tokens[0].author == "small"
    assert not helper.calls


def test_a_reply_ends_with_the_room_and_a_stop_token_ends_the_answer() -> None:
    (answer,) = cascade(Told(" University of Warszawa"), budget=1.0).answers(requests(2)[:1])
    assert (len(answer.ids), answer.finish) == (2, "length")
    first = plain(PROMPTS[0], Sampling(temperature=0, max_tokens=1))[0]
    sampling = Sampling(temperature=0, max_tokens=9, stop_ids=frozenset([first]))
    (stopped,) = cascade(None).answers([CascadeRequest(PROMPTS[0], sampling)])
    assert (stopped.ids, stopped.finish) == ([first], "stop")


def test_tokens_say_how_likely_and_how_late_they_were() -> None:
    def slow(call: Call) -> str:
        threading.Event().wait(0.02)
        return " Łódź"

    (answer,) = cascade(Told(slow), budget=1.0).answers(
        [CascadeRequest(PROMPTS[0], Sampling(temperature=0, max_tokens=8), alternatives=3)]
    )
    first, *rest = answer.tokens
    assert first.seconds > 0.02
    assert len(first.alternatives) == 3
    assert first.logprob is not None
    assert [token.seconds for token in rest if token.logprob is None] == [0.0] * sum(t.logprob is None for t in rest)
    assert answer.summary.helper_seconds > 0.02 * answer.summary.calls


def test_while_a_helper_thinks_the_other_requests_go_on() -> None:
    release = threading.Event()
    slow: list[str] = []

    def say(call: Call) -> str:
        slow.append(call.session)
        release.wait(10)
        return " 1987"

    with ThreadPoolExecutor(1) as executor:
        asked = Cascade(SMALL, TOKENS, Told(say), calibration(), CascadeConfig(budget=0.0), executor=executor)
        decoding = asked.decoding()
        caller = decoding.add(requests(4, budget=1.0)[0])
        other = decoding.add(requests(4)[1])
        steps = [step for _ in range(6) for step in decoding.step()]
        assert {step.request for step in steps} == {other}
        assert steps[-1].finish == "length"
        release.set()
        while decoding.active:
            steps += decoding.step()
    answer = [token for step in steps if step.request == caller for token in step.tokens]
    assert answer
    assert {token.author for token in answer} == {"helper"}
    assert len(set(slow)) == 1


def test_requests_come_and_go_while_others_are_decoded() -> None:
    helper = Told(" 1987")
    decoding = cascade(helper, calibration(0.0, 0.02), budget=0.3).decoding()
    numbers = [decoding.add(request) for request in requests(15)[:3]]
    seen: dict[int, list[int]] = {}

    def take(steps: list[CascadeStep]) -> None:
        for step in steps:
            seen.setdefault(step.request, []).extend(token.id for token in step.tokens)

    for _ in range(4):
        take(decoding.step())
    decoding.cancel(numbers[0])
    late = decoding.add(requests(15)[3])
    while decoding.active:
        take(decoding.step())
    expected: list[CascadeAnswer] = cascade(Told(" 1987"), calibration(0.0, 0.02), budget=0.3).answers(requests(15))
    assert seen[numbers[1]] == expected[1].ids
    assert seen[numbers[2]] == expected[2].ids
    assert seen[late] == expected[3].ids
    assert len(seen[numbers[0]]) < 15
    assert len(helper.forgotten) == 4


def test_a_shared_rule_holds_the_budget_over_all_requests_together() -> None:
    """Each request alone has too few decisions to; scores are all above those of the calibration."""
    config, record = CascadeConfig(budget=0.2), calibration(0.0, 1e-9)
    many = [request for _ in range(5) for request in requests(20, budget=0.2)]
    shared = Cascade(SMALL, TOKENS, Told(""), record, config, shared_rule=True).answers(many)
    decisions = sum(answer.summary.decisions for answer in shared)
    assert abs(sum(answer.summary.calls for answer in shared) / decisions - 0.2) < 0.01


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": [5] * 96}, "96 tokens, but the context of 96"),
        ({"prompt": [TOKENS.vocab_size]}, "cannot be part of a prompt"),
        ({"prompt": [TOKENS.call_id]}, "<CALL>, is never read"),
        ({"budget": 1.5}, "call budget of 1.5 is not a share"),
        ({"max_calls": -1}, "max_calls is -1"),
    ],
)
def test_impossible_requests_are_refused(values: dict[str, object], message: str) -> None:
    request = CascadeRequest(**{"prompt": PROMPTS[0], "sampling": Sampling(), **values})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        cascade(Told("")).decoding().add(request)


def test_a_model_with_another_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="do not belong together"):
        Cascade(SMALL, tokenizer(320), None, calibration(), CascadeConfig())


def test_a_prompt_that_another_cache_has_read_is_taken_over() -> None:
    sampling = Sampling(temperature=0, max_tokens=15)
    decoding = cascade(None).decoding()
    found: list[list[int]] = [[], []]
    for prompt, length in zip(PROMPTS[-2:], (len(PROMPTS[-2]) - 1, 3), strict=True):
        read = KeyValueCache.for_model(SMALL)
        with torch.inference_mode():
            SMALL(torch.tensor([prompt[:length]]), cache=read)
        decoding.add(CascadeRequest(prompt, sampling), read)
    while decoding.active:
        for step in decoding.step():
            found[step.request] += [token.id for token in step.tokens]
    assert found == [plain(prompt, sampling) for prompt in PROMPTS[-2:]]


@pytest.mark.parametrize("where", ["in the forward pass", "after it", "in the choice"])
def test_a_request_that_fails_leaves_the_others_alone(where: str) -> None:
    decoding = cascade(Told(" 1987"), budget=0.2).decoding()
    alone = cascade(Told(" 1987"), budget=0.2).answers(requests())
    for request in requests():
        decoding.add(request)
    steps = [step for _ in range(3) for step in decoding.step()]
    broken = decoding._rows[2]
    if where == "in the choice":
        broken.row.sampling = Sampling(top_k=5)
        broken.row.generator = "none"  # type: ignore[assignment]
    elif where == "after it":
        broken.row.suppressed = torch.tensor([TOKENS.vocab_size + 1])
    else:
        broken.row.unread = [TOKENS.vocab_size + 1] * len(broken.row.unread)
    while decoding.active:
        steps += decoding.step()
    failed = [step.request for step in steps if step.error is not None]
    assert failed == [broken.number]
    for number in set(range(len(PROMPTS))) - set(failed):
        assert [token.id for step in steps if step.request == number for token in step.tokens] == alone[number].ids


def test_numbers_can_be_read_while_a_request_is_answered() -> None:
    decoding = cascade(Told(" 1987"), calibration(0.0, 1e-9), budget=0.5).decoding()
    number = decoding.add(requests()[0])
    summary, tokens = decoding.summary(number), []
    while decoding.active:
        for step in decoding.step():
            tokens += list(step.tokens)
            assert summary.small_tokens + summary.helper_tokens == len(tokens)
    assert summary == step.summary
    assert summary.helper_seconds == pytest.approx(sum(token.helper_seconds for token in tokens))
    assert all(token.helper_seconds <= token.seconds for token in tokens)
