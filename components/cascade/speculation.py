"""Writing on while the helper is asked: speculative execution of the cascade.

A row goes on from a guess at the reply. What follows is unconfirmed: it is not shown, and may hold further calls, which
are asked at once, so that their waits overlap. A reply that says what was guessed confirms what follows up to the next
call; another takes all of it back, and the row goes on from the reply. So the text is the one that waiting gives.

Two guesses are made. The first is the small model's own word; it is often wrong, because a model that has learnt to ask
asks for what it does not know. But the calls that follow a wrong guess are made anyway, and what the helper says seldom
depends on one word before it: their replies, void as they are, are the guesses when the same questions are asked again
after the true reply. So a wrong guess costs one wait, and not one for each call that follows.
"""

from collections.abc import Sequence
from itertools import chain, takewhile

from components.cascade.config import CascadeConfig
from components.cascade.helpers.base import HelperError, Reply
from components.cascade.questions import Questions
from components.cascade.replies import Told, told
from components.cascade.reply_tokens import ends_inside_character
from components.cascade.reply_unit import first_unit
from components.cascade.rows import KEPT_QUESTIONS, AskedCall, CascadeRow, Draft, Question, RowState
from components.data.tokenizer import TextTokenizer
from components.model.decoder import Decoder

_ENDING = 16  # tokens: text that has more in common is as good as the same
_NOTHING = Reply("", 0, 0.0)


class Speculation:
    """What becomes of guesses, for all rows of a decoder."""

    def __init__(self, decoder: Decoder, tokenizer: TextTokenizer, config: CascadeConfig, questions: Questions) -> None:
        self._decoder, self._tokenizer, self._config, self._questions = decoder, tokenizer, config, questions
        self._special = frozenset(tokenizer.special.ids.values())

    def begin(self, row: CascadeRow) -> None:
        """Guess at the reply to the row's last call, unless that has been done, may not be, or cannot be yet."""
        last = row.asked[-1] if row.asked else None
        if last is None or last.guessed is not None or row.draft is not None or len(row.asked) >= row.most_asked:
            return
        last.likely = last.likely or _likely(row, last)
        if last.likely is not None and last.likely.reply is None:
            return  # it was asked before this one, so it comes before
        last.state = RowState.of(row)
        if row.row.sampling.greedy:
            (last.own,) = self._decoder.choose([row.row], last.decision.logits[None])
        if last.likely is not None and isinstance(last.likely.reply, Reply | HelperError):
            self._guess(row, last.likely.reply)
        elif row.settled and not _brought(row.settled[0]):
            self._guess(row, _NOTHING)
        else:
            row.draft = Draft()
            self.draft(row, int(last.decision.logits.argmax()))

    def draft(self, row: CascadeRow, id: int) -> None:
        """One more token of the reply that the small model would give; once that is complete, it is the guess."""
        draft, last = row.draft, row.asked[-1]
        assert draft is not None
        ended = id in self._special
        if not ended:
            draft.text += self._tokenizer.token_bytes(id)
            draft.unit, ended = first_unit(draft.text.decode("utf-8", errors="replace"), self._config.unit)
            ended = ended and not ends_inside_character(draft.text)
            ended = ended or len(draft.ids) + 1 >= min(last.question.call.max_tokens, last.left)
        if not ended:
            draft.ids.append(id)
            self._decoder.write(row.row, [id])
            return
        # A reply is read in one piece: what was written of it is written once more.
        self._decoder.take_back(row.row, len(draft.ids))
        row.draft = None
        self._guess(row, Reply(draft.unit, 0, 0.0))

    def told(self, asked: AskedCall, reply: Reply | HelperError) -> Told:
        """What ``reply`` to ``asked`` comes to."""
        found = told(reply, asked.ids, asked.left, self._config.max_unit_tokens, self._tokenizer)
        row = asked.question.row.row
        if found.call == "answered" and row.guide is not None:
            written = asked.ids[row.prompt_tokens :]
            if not row.guide.accepts(written, found.ids):
                return Told("failed", fault="the grammar of the answer does not accept it")
        return found

    def confirms(self, row: CascadeRow, asked: AskedCall, reply: Told) -> bool:
        """Whether the row is where it would be if it had waited for ``reply``."""
        if asked.guessed is None:
            return False
        greedy = row.row.sampling.greedy
        if reply.call == "answered":
            return asked.guessed == reply.ids and (greedy or not asked.guessed_own)
        return asked.guessed_own or (greedy and asked.guessed == (asked.own,))

    def take_back(self, row: CascadeRow, asked: AskedCall) -> None:
        """What was written since ``asked``, the call before all that are under way, has not been written after all."""
        self._decoder.take_back(row.row, len(row.row.ids) - len(asked.ids))
        row.draft = None
        if asked.state is not None:
            asked.state.restore(row)
        row.void = [*self.abandon(row), *row.void][:KEPT_QUESTIONS]

    def wait(self, row: CascadeRow) -> None:
        """Take back all that stands on a guess, and guess no more for this row."""
        first = row.asked.popleft()
        self.take_back(row, first)
        first.state = first.guessed = None
        row.asked.append(first)
        row.most_asked = 1

    def abandon(self, row: CascadeRow) -> list[Question]:
        """The row's calls under way are no part of its text any more; what has been asked all the same."""
        sent = [asked.question for asked in row.asked if not self._questions.withdraw(asked.question)]
        row.asked.clear()
        row.summary.discarded_calls += len(sent)
        return sent

    def write(self, row: CascadeRow, ids: "tuple[int, ...] | list[int]") -> None:
        """Write the tokens of one reply or decision into the row's text."""
        self._decoder.write(row.row, ids)
        for id in ids:
            row.text += self._tokenizer.token_bytes(id)

    def _guess(self, row: CascadeRow, reply: Reply | HelperError) -> None:
        """Go on as if ``reply`` had come."""
        last = row.asked[-1]
        guess = self.told(last, reply)
        last.guessed, last.guessed_own = guess.ids, guess.call != "answered"
        if last.guessed_own:
            last.guessed = tuple(self._decoder.choose([row.row], last.decision.logits[None]))
        self.write(row, last.guessed)


def _brought(question: Question) -> bool:
    """Whether the helper had something to say."""
    return isinstance(question.reply, Reply) and bool(question.reply.text.strip())


def _likely(row: CascadeRow, asked: AskedCall) -> Question | None:
    """Of the questions that the row has asked before, the one most like ``asked``: with the longest common ending."""
    found, most = None, 0
    for before in chain(row.void, row.settled):
        common = _common_ending(before.call.ids, asked.ids)
        if common > most:
            found, most = before, common
    return found


def _common_ending(one: Sequence[int], other: Sequence[int]) -> int:
    """How many of the last tokens of both are the same, up to ``_ENDING``."""
    pairs = zip(reversed(one[-_ENDING:]), reversed(other[-_ENDING:]), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
