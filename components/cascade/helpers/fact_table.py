"""The fact table of the closed world as a helper that is never wrong: the upper bound for any helper.

It reads the text as ``components/data/world/comprehension.py`` does and says what a true text states at its end. Where
that is no fact, or a value has been begun wrongly, it knows nothing to say. A text that it does not understand is read
once more with its misspelt words put right.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from components.cascade.helpers.base import Call, HelperError, Reply, StatelessHelper
from components.cascade.reply_unit import first_tokens, first_unit
from components.data.tokenizer import TextTokenizer
from components.data.world.comprehension import NextValue, World
from components.data.world.spelling import Spelling


class FactTableHelper(StatelessHelper):
    """Answers from ``world``. What it counts in tokens are those of ``tokenizer``; without one, words."""

    def __init__(self, world: World, tokenizer: TextTokenizer | None = None) -> None:
        self._world = world
        self._spelling = Spelling(world.table)
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, facts: Path, tokenizer: TextTokenizer | None = None) -> "FactTableHelper":
        """Read ``facts.jsonl``; raises ``ArtifactError`` if it is missing or is no fact table."""
        return cls(World.load(facts), tokenizer)

    @property
    def name(self) -> str:
        return "fact table"

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """The facts, or the first word or token of them; an entity is the whole value, however many words it has."""
        return [self._answer(call) for call in calls]

    def _answer(self, call: Call) -> Reply:
        began = time.perf_counter()
        found = self._world.next_value(call.text) or self._respelt(call.text)
        text = self._cut(found.text, call) if found else ""
        return Reply(text, 0, time.perf_counter() - began)

    def _respelt(self, text: str) -> NextValue | None:
        values = (self._world.next_value(each) for each in self._spelling.readings(text))
        return next((value for value in values if value is not None), None)

    def _cut(self, text: str, call: Call) -> str:
        if call.unit == "word" or (call.unit == "token" and self._tokenizer is None):
            text = first_unit(text, "word")[0]
        if self._tokenizer is None:
            return text
        return first_tokens(text, 1 if call.unit == "token" else call.max_tokens, self._tokenizer)
