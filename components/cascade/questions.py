"""Questions on their way to the helper, in batches, each in a thread of its own.

Only so many batches are under way at once: a helper has a limited number of threads and connections. The questions
that find no place go together, in the next batch.
"""

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait

from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.rows import Question

# A resilient helper has eight threads, and gives up calls that find none of them free.
_MOST_BATCHES = 8
# The places that questions which stand on a guess leave to the others.
_KEPT_BATCHES = 2


class Questions:
    """The questions of requests that are answered together. For one thread."""

    def __init__(self, helper: Helper | None, executor: Executor | None) -> None:
        """``executor``: where the helper is asked; without one, it is asked in ``send``."""
        self._helper, self._executor = helper, executor
        self._unsent: list[Question] = []
        self._sent: dict[Future[list[Reply | HelperError]], list[Question]] = {}

    def ask(self, question: Question) -> None:
        """Take in a question for the next batch."""
        self._unsent.append(question)

    def withdraw(self, question: Question) -> bool:
        """Do not ask a question after all; whether it was not too late for that."""
        if question.sent is None:
            self._unsent.remove(question)
        return question.sent is None

    def send(self) -> list[Question]:
        """Send what has been asked, if there is a place for it; those that have their replies at once."""
        if not self._unsent or (self._executor is not None and len(self._sent) >= self._places()):
            return []
        batch, self._unsent = self._unsent, []
        assert self._helper is not None
        calls = [question.call for question in batch]
        for question in batch:
            question.sent = time.perf_counter()
        if self._executor is None:
            for question, reply in zip(batch, _answers(self._helper, calls), strict=True):
                question.reply = reply
            return batch
        self._sent[self._executor.submit(_answers, self._helper, calls)] = batch
        return []

    def collect(self, patience: float) -> list[Question]:
        """The questions whose replies have come, waiting up to ``patience`` seconds for the first."""
        if not self._sent:
            return []
        done, _ = wait(self._sent, timeout=patience, return_when=FIRST_COMPLETED)
        answered = []
        for future in done:
            batch = self._sent.pop(future)
            answered += batch
            try:
                replies: Sequence[Reply | HelperError | Exception] = future.result()
            except Exception as error:  # a helper that is not wrapped in a resilient one
                replies = [error] * len(batch)
            for question, reply in zip(batch, replies, strict=True):
                question.reply = reply
        return answered

    def _places(self) -> int:
        firm = any(question is question.row.asked[0].question for question in self._unsent)
        return _MOST_BATCHES if firm else _MOST_BATCHES - _KEPT_BATCHES


def _answers(helper: Helper, calls: Sequence[Call]) -> list[Reply | HelperError]:
    """One reply or error for each call, also from a helper that gives up on all of them at once."""
    try:
        replies = helper.answer(calls)
    except HelperError as error:
        return [error] * len(calls)
    if len(replies) != len(calls):
        raise ValueError(f"the helper {helper.name} gave {len(replies)} replies to {len(calls)} calls")
    return replies
