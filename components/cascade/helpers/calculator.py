"""A calculator as a helper: where the text ends within ``<<48/2=``, it writes ``24>>``, and the model goes on.

It is exact or says nothing: where no expression is open, where it has no value (``1/0``), where no decimals express
that value (``10/3``), and where another result has been begun. What it reads is arithmetic and never code.
"""

import re
import time
from collections.abc import Sequence

from components.arithmetic.calculations import CLOSING, rest_of_result
from components.cascade.helpers.base import Call, HelperError, Reply, StatelessHelper
from components.cascade.reply_unit import first_tokens
from components.data.tokenizer import TextTokenizer

_NUMBER_OR_CLOSING = re.compile(rf"[-.0-9]+|{CLOSING}")


class CalculatorHelper(StatelessHelper):
    """What it counts in tokens are those of ``tokenizer``; without one, numbers."""

    def __init__(self, tokenizer: TextTokenizer | None = None) -> None:
        self._tokenizer = tokenizer

    @property
    def name(self) -> str:
        return "calculator"

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """The rest of the result; a word is the number alone, an entity the number and the ``>>`` that ends it."""
        return [self._answer(call) for call in calls]

    def _answer(self, call: Call) -> Reply:
        began = time.perf_counter()
        rest = rest_of_result(call.text)
        text = self._cut(rest, call) if rest else ""
        return Reply(text, 0, time.perf_counter() - began)

    def _cut(self, rest: str, call: Call) -> str:
        # Not ``first_unit``, to which a minus is a word by itself.
        if call.unit == "word" or (call.unit == "token" and self._tokenizer is None):
            rest = _NUMBER_OR_CLOSING.findall(rest)[0]
        if self._tokenizer is None:
            return rest
        return first_tokens(rest, 1 if call.unit == "token" else call.max_tokens, self._tokenizer)
