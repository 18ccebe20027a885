"""Rule sets that need no annotator: everything, nothing, and words with digits. They bound what a parse can add."""

import re
from collections.abc import Sequence

from components.labelling.annotators.base import Annotation, as_words
from components.labelling.config import ControlRules

# "3,400", "1960s" and "A4" are one word each, "1914–1918" is two.
_PATTERNS = {"digits_only": re.compile(r"[^\W_]*\d[^\W_]*(?:[.,:]\d+)*"), "all": re.compile(r"\S+")}


class Control:
    """Mask words by a regular expression, or none."""

    def __init__(self, rules: ControlRules) -> None:
        self._pattern = _PATTERNS.get(rules)

    def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        return [Annotation(as_words(self._spans(text)), "control") for text in texts]

    def _spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self._pattern.finditer(text)] if self._pattern else []
