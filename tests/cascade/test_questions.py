from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, cast

import pytest

from components.cascade.helpers.base import Call, HelperError
from components.cascade.questions import Questions
from components.cascade.rows import CascadeRow, Question
from tests.fakes import Told


class Later(Executor):
    """Does nothing before it is told to."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        self.work.append(work)
        return future


class _Asked:
    def __init__(self, question: Question) -> None:
        self.question = question


class _Row:
    """As much of a row as is looked at: its calls under way."""

    def __init__(self) -> None:
        self.asked: list[_Asked] = []


def question(row: _Row) -> Question:
    made = Question(cast(CascadeRow, row), Call("s", "text", (1, 2), "word", 4))
    row.asked.append(_Asked(made))
    return made


def test_only_so_many_batches_are_under_way_and_the_rest_goes_together() -> None:
    executor, helper = Later(), Told(" 1987")
    questions = Questions(helper, executor)
    made = [question(_Row()) for _ in range(12)]
    for each in made:
        questions.ask(each)
        assert questions.send() == []
    assert [each.sent is not None for each in made] == [True] * 8 + [False] * 4
    assert questions.collect(0.0) == []
    executor.work.pop(3)()
    assert questions.collect(0.0) == [made[3]]
    questions.send()
    executor.work[-1]()
    assert questions.collect(0.0) == made[8:]
    assert [len(batch) for batch in helper.batches] == [1, 4]


def test_questions_that_stand_on_a_guess_leave_places_to_the_others() -> None:
    questions, row = Questions(Told(" 1987"), Later()), _Row()
    made = [question(row) for _ in range(9)]  # all but the first stand on a guess
    for each in made:
        questions.ask(each)
        questions.send()
    assert [each.sent is not None for each in made] == [True] * 6 + [False] * 3
    firm = question(_Row())
    questions.ask(firm)
    questions.send()
    assert firm.sent is not None
    assert all(each.sent is not None for each in made)  # they go with it


def test_a_question_can_be_withdrawn_until_it_is_sent() -> None:
    executor, helper = Later(), Told(" 1987")
    questions, row = Questions(helper, executor), _Row()
    first, second = question(row), question(row)
    questions.ask(first)
    questions.send()
    questions.ask(second)
    assert questions.withdraw(second)
    assert not questions.withdraw(first)
    assert questions.send() == []
    executor.work[0]()
    assert helper.batches == [[first.call]]


@pytest.mark.parametrize(
    ("said", "expected"),
    [(HelperError("too late"), HelperError), (cast(Any, lambda call: 1 / 0), ZeroDivisionError)],
)
def test_an_error_is_the_reply_to_every_question_of_the_batch(said: Any, expected: type[Exception]) -> None:
    executor = Later()
    questions = Questions(Told(said), executor)
    made = [question(_Row()) for _ in range(2)]
    for each in made:
        questions.ask(each)
    questions.send()
    executor.work[0]()
    assert questions.collect(0.0) == made
    assert [type(each.reply) for each in made] == [expected] * 2


def test_a_helper_that_gives_too_few_replies_is_told_on() -> None:
    class Short(Told):
        def answer(self, calls: Any) -> Any:
            return super().answer(calls)[1:]

    questions = Questions(Short(" 1987"), None)
    questions.ask(question(_Row()))
    with pytest.raises(ValueError, match="gave 0 replies to 1 calls"):
        questions.send()
