"""Whatever a helper does, the cascade gets a usable reply or an error in time."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from components.cascade.config import HelperConfig
from components.cascade.helpers.base import Call, HelperError, Reply
from components.cascade.helpers.resilience import ResilientHelper
from tests.cascade.helpers.conftest import call

CONFIG = HelperConfig(kind="world", timeout_seconds=0.3, retries=0, failures_before_rest=3, rest_seconds=0.3)


class Actor:
    """Does at each answer what the script says, the last line again and again."""

    name = "actor"

    def __init__(self, *script: Callable[[Sequence[Call]], list[Reply | HelperError]]) -> None:
        self.script = list(script)
        self.asked: list[list[str]] = []
        self.forgotten: list[str] = []
        self.threads: set[int] = set()
        self.closed = False

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        self.asked.append([each.text for each in calls])
        self.threads.add(threading.get_ident())
        act = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return act(calls)

    def forget(self, session: str) -> None:
        self.forgotten.append(session)

    def check(self) -> None:
        raise HelperError("nobody home")

    def close(self) -> None:
        self.closed = True


def says(text: str, tokens: int = 1) -> Callable[[Sequence[Call]], list[Reply | HelperError]]:
    return lambda calls: [Reply(text, tokens, 0.0) for _ in calls]


def fails(calls: Sequence[Call]) -> list[Reply | HelperError]:
    return [HelperError("no") for _ in calls]


def raises(calls: Sequence[Call]) -> list[Reply | HelperError]:
    raise KeyError("bug")


def sleeps(seconds: float) -> Callable[[Sequence[Call]], list[Reply | HelperError]]:
    def act(calls: Sequence[Call]) -> list[Reply | HelperError]:
        time.sleep(seconds)
        return [Reply(" late", 1, seconds) for _ in calls]

    return act


def guarded(actor: Actor, **changes: object) -> ResilientHelper:
    return ResilientHelper(actor, CONFIG.model_copy(update=changes))


def test_a_good_reply_passes_untouched_and_always_from_the_same_thread() -> None:
    actor = Actor(says(" Brackwater", 3))
    helper = guarded(actor)
    for _ in range(5):
        assert helper.answer([call("a"), call("b")]) == [Reply(" Brackwater", 3, 0.0)] * 2
    assert len(actor.threads) == 1
    assert helper.answer([]) == []


def test_an_empty_reply_is_no_failure() -> None:
    helper = guarded(Actor(says("", 0)))
    for _ in range(10):
        assert helper.answer([call("a")]) == [Reply("", 0, 0.0)]
    assert not helper.resting


def test_a_slow_helper_is_left_behind_in_time() -> None:
    helper = guarded(Actor(sleeps(2.0), says(" quick")), retries=5)
    began = time.monotonic()
    (reply,) = helper.answer([call("a")])
    assert time.monotonic() - began < 0.6
    assert isinstance(reply, HelperError)
    assert "within 0.3 s" in str(reply)
    assert helper.answer([call("a")]) == [Reply(" quick", 1, 0.0)]  # the late answer stands in nobody's way


def test_when_every_thread_hangs_calls_fail_at_once() -> None:
    stop = threading.Event()

    def hangs(calls: Sequence[Call]) -> list[Reply | HelperError]:
        stop.wait(10)
        return [Reply(" at last", 1, 0.0)]

    helper = guarded(Actor(hangs), timeout_seconds=0.02, failures_before_rest=100)
    for _ in range(8):
        helper.answer([call("a")])
    (reply,) = helper.answer([call("a")])
    assert "earlier calls" in str(reply)
    helper.forget("request")
    began = time.monotonic()
    helper.close()
    assert time.monotonic() - began < 0.1
    stop.set()


@pytest.mark.parametrize("trouble", [fails, raises, says("\ufffd"), lambda calls: []])
def test_what_fails_is_tried_again_as_often_as_allowed(
    trouble: Callable[[Sequence[Call]], list[Reply | HelperError]],
) -> None:
    actor = Actor(trouble, trouble, says(" third"))
    assert guarded(actor, retries=2).answer([call("a")]) == [Reply(" third", 1, 0.0)]
    actor = Actor(trouble)
    (reply,) = guarded(actor, retries=2).answer([call("a")])
    assert isinstance(reply, HelperError)
    assert len(actor.asked) == 3


def test_only_the_calls_that_failed_are_asked_again() -> None:
    def half(calls: Sequence[Call]) -> list[Reply | HelperError]:
        return [HelperError("no") if each.text == "b" else Reply(" one", 1, 0.0) for each in calls]

    actor = Actor(half, says(" two"))
    helper = guarded(actor, retries=1)
    assert helper.answer([call("a"), call("b"), call("c")]) == [
        Reply(" one", 1, 0.0),
        Reply(" two", 1, 0.0),
        Reply(" one", 1, 0.0),
    ]
    assert actor.asked == [["a", "b", "c"], ["b"]]


def test_retries_stay_within_the_time_out() -> None:
    def slow_failure(calls: Sequence[Call]) -> list[Reply | HelperError]:
        time.sleep(0.12)
        raise HelperError("no")

    actor = Actor(slow_failure)
    began = time.monotonic()
    guarded(actor, retries=50).answer([call("a")])
    assert time.monotonic() - began < 0.6
    assert 2 <= len(actor.asked) <= 3


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("   ", "word"),
        ("\n", "token"),
        (" ", "word"),
        ("caf\ufffd", "word"),
        (" bell\x07", "word"),
        (" \x1b[31mred", "entity"),
        (" half \ud800", "word"),
        (" <CALL>", "word"),
        (" x" * 300, "entity"),
    ],
)
def test_nonsense_is_no_answer(text: str, unit: str) -> None:
    (reply,) = guarded(Actor(says(text))).answer([call("a", unit)])  # type: ignore[arg-type]
    assert isinstance(reply, HelperError)
    assert "actor" in str(reply)


def test_more_tokens_than_asked_for_are_no_answer() -> None:
    (reply,) = guarded(Actor(says(" many", 17))).answer([call("a")])
    assert "17 tokens, 16 were asked for" in str(reply)


def test_a_single_space_may_be_a_token() -> None:
    assert guarded(Actor(says(" "))).answer([call("in the year", "token")]) == [Reply(" ", 1, 0.0)]


@pytest.mark.parametrize("text", [" Łódź", " e\u0301", "🙂", " 82,848", "\n\nIn"])
def test_text_of_any_script_is_an_answer(text: str) -> None:
    assert guarded(Actor(says(text))).answer([call("a")]) == [Reply(text, 1, 0.0)]


def test_after_failures_in_a_row_it_rests_and_then_one_call_tries() -> None:
    actor = Actor(fails)
    helper = guarded(actor)
    for _ in range(3):
        assert not helper.resting
        helper.answer([call("a"), call("b")])
    assert helper.resting
    (reply,) = helper.answer([call("a")])
    assert "left alone" in str(reply)
    assert "3 failures" in str(reply)
    assert len(actor.asked) == 3  # nobody was asked
    time.sleep(0.35)
    helper.answer([call("a")])  # the trial fails
    assert len(actor.asked) == 4
    assert helper.resting
    actor.script = [says(" back")]
    time.sleep(0.35)
    assert helper.answer([call("a")]) == [Reply(" back", 1, 0.0)]
    assert not helper.resting
    actor.script = [fails]
    helper.answer([call("a")])
    assert not helper.resting  # counted from the beginning again


def test_while_one_call_tries_the_others_are_refused() -> None:
    actor = Actor(fails, fails, fails, sleeps(0.2))
    helper = guarded(actor)
    for _ in range(3):
        helper.answer([call("a")])
    time.sleep(0.32)
    trial = threading.Thread(target=lambda: helper.answer([call("trial")]))
    trial.start()
    time.sleep(0.05)
    (refused,) = helper.answer([call("other")])
    assert "left alone" in str(refused)
    trial.join()
    assert ["other"] not in actor.asked
    (reply,) = helper.answer([call("next")])
    assert isinstance(reply, Reply)


def test_success_ends_a_row_of_failures() -> None:
    helper = guarded(Actor(fails, fails, says(" ok"), fails, fails, says(" ok")))
    for _ in range(6):
        helper.answer([call("a")])
    assert not helper.resting


def test_many_threads_may_ask() -> None:
    helper = guarded(Actor(sleeps(0.02)), timeout_seconds=5.0)
    replies: list[Reply | HelperError] = []
    threads = [threading.Thread(target=lambda: replies.extend(helper.answer([call("a")]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(reply) for reply in replies] == [Reply] * 8


def test_forget_check_and_close_reach_the_helper() -> None:
    actor = Actor(says(" a"))
    helper = guarded(actor)
    helper.answer([call("a")])
    helper.forget("request")
    for _ in range(100):
        if actor.forgotten:
            break
        time.sleep(0.01)
    assert actor.forgotten == ["request"]
    with pytest.raises(HelperError, match="nobody home"):
        helper.check()
    helper.close()
    assert actor.closed


def test_a_request_that_ends_while_the_helper_hangs_is_forgotten_afterwards() -> None:
    actor = Actor(sleeps(0.1))
    helper = guarded(actor, timeout_seconds=0.01, failures_before_rest=100)
    for _ in range(8):
        helper.answer([call("a")])
    helper.forget("request")
    assert actor.forgotten == []
    time.sleep(0.3)
    assert actor.forgotten == ["request"]


def test_many_requests_that_end_together_take_no_thread_from_those_that_ask() -> None:
    held = threading.Event()
    actor = Actor(says(" a"))
    actor.forget = lambda session: held.wait(5.0)  # type: ignore[method-assign, assignment]
    helper = ResilientHelper(actor, CONFIG)
    for number in range(50):
        helper.forget(str(number))
    answers = [helper.answer([call("x")])[0] for _ in range(20)]
    held.set()
    assert all(isinstance(answer, Reply) for answer in answers)
