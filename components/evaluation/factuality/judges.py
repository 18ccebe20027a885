"""Does an article support a statement? Judged by an LLM that reads the retrieved passages, or by their words.

The local judge calls a statement supported if one of the passages has, within a stretch of about two sentences,

    all its numbers            "1815" is not "1816", "1980s" not "1980"
    all its names              words with a capital, but for the subject's own name
    two thirds of its words    other than function words; the beginnings of words are compared

It only checks whether things are mentioned together: "He was born in Rome" is supported by "he died in Rome". It
wrongly supports a false value that stands close to the right place, and it misses statements that the article words
differently ("the 1990s" for 1994). On 100 articles of Wikipedia (``benchmarks/factscore.py``) it supports 99 % of their
clauses, under 1 % of the same clauses with a foreign year or name, but 10 % with another year and 15 % with another
name of the same article; and 77 % of birth years in other words than the article's.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from components.evaluation.factuality.articles import Passages
from components.evaluation.factuality.chat import Chat, ChatError

_ANSWER_TOKENS = 16
_TRUE, _FALSE = re.compile(r"\btrue\b", re.IGNORECASE), re.compile(r"\bfalse\b", re.IGNORECASE)

_WORD = re.compile(r"\w+(?:[-'’.]\w+)*")
_STRETCH_WORDS = 50
_WORDS_SHARE = 2 / 3
_BEGINNING_LETTERS = 5  # "paint" for painter, painted, paintings
_FUNCTION_WORDS = """
a about after against all also although among an and another any are as at be became because become been before being
best better between both but by can could did do does during each either few first for from further had has have he her
here hers herself him himself his how however i if in into is it its itself just last later latter many may me might
more most much must my named near no nor not of off on once one only or other others our out over own same several she
should since so some such than that the their theirs them themselves then there these they this those through to too
under until up upon very was we well were what when where whether which while who whom whose why will with within
without would you your
"""
_IGNORED = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Statement:
    """A statement to judge."""

    entity: str
    fact: str
    article: Passages


class Judge(Protocol):
    """Decides for statements whether their articles support them."""

    @property
    def name(self) -> str:
        """For the report."""

    def verdicts(self, statements: Sequence[Statement]) -> list[bool | ChatError]:
        """Supported or not, or an error where the judge failed."""


class LlmJudge:
    """Asks an LLM true or false, the passages before the question (retrieval and LM in the publication)."""

    def __init__(self, chat: Chat, passages: int) -> None:
        self._chat, self._passages = chat, passages
        self.name = f"{chat.name}, shown {passages} passages of the article"

    def verdicts(self, statements: Sequence[Statement]) -> list[bool | ChatError]:
        answers = self._chat.ask_all([self._question(statement) for statement in statements], _ANSWER_TOKENS)
        return [answer if isinstance(answer, ChatError) else _verdict(answer) for answer in answers]

    def _question(self, statement: Statement) -> str:
        # The closest passage last, next to the question.
        shown = reversed(statement.article.closest(statement.fact, self._passages))
        context = "\n\n".join(f"Title: {statement.article.title}\nText: {text}" for text in shown)
        return (
            f"Answer the question about {statement.entity} with what the following passages say.\n\n{context}\n\n"
            f"Input: {statement.fact} True or False?\nOutput:"
        )


class LocalJudge:
    """Looks for the statement's numbers, names and words close together in the passages."""

    def __init__(self, passages: int) -> None:
        self._passages = passages
        self.name = f"words found together in {passages} passages of the article (local, coarse)"

    def verdicts(self, statements: Sequence[Statement]) -> list[bool | ChatError]:
        return [
            mentioned(each.fact, each.entity, each.article.closest(each.fact, self._passages)) for each in statements
        ]


def mentioned(fact: str, entity: str, passages: Sequence[str]) -> bool:
    """Whether what ``fact`` says of ``entity`` is mentioned together in one of ``passages``.

    A statement that says nothing but function words and the entity's name is supported by nothing.
    """
    needed, words = _key_words(fact, entity)
    if not needed and not words:
        return False
    least = len(words) * _WORDS_SHARE
    size = max(_STRETCH_WORDS, 2 * (len(needed) + len(words)))
    return any(
        needed <= set(present) and sum(word in present for word in words) >= least
        for passage in passages
        for present in _stretches([_key(word) for word in _plain_words(passage)], size)
    )


def _key_words(fact: str, entity: str) -> tuple[set[str], set[str]]:
    """Words that must all be there (numbers and names), and words of which most must be there."""
    own = {_key(word) for word in _plain_words(entity)}
    needed, words = set[str](), set[str]()
    for place, word in enumerate(_plain_words(fact)):
        key = _key(word)
        if key in own or word.casefold() in _IGNORED:
            continue
        # The first word has a capital in any case.
        named = any(letter.isdigit() for letter in word) or (place > 0 and word[0].isupper())
        (needed if named else words).add(key)
    return needed, words - needed


def _stretches(words: list[str], size: int) -> Iterator[Counter[str]]:
    """Counts of the words in every stretch of ``size``, a quarter further each time; all words if they are fewer."""
    step = max(1, size // 4)
    for start in range(0, max(1, len(words) - size + step), step):
        yield Counter(words[start : start + size])


def _plain_words(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text).replace("–", " ")
    return [re.sub(r"['’]s?$", "", word) for word in _WORD.findall(text)]


def _key(word: str) -> str:
    if any(letter.isdigit() for letter in word):
        return word.casefold().replace(",", "")
    return "".join(letter for letter in word.casefold() if letter.isalnum())[:_BEGINNING_LETTERS]


def _verdict(answer: str) -> bool | ChatError:
    """As in the paper, the later of both words decides. Unlike there, an answer with neither is no verdict."""
    true, false = _TRUE.search(answer), _FALSE.search(answer)
    if true is None and false is None:
        return ChatError(f"the judge was asked true or false and said {answer[:80]!r}")
    if true is None or false is None:
        return true is not None
    return true.start() > false.start()
