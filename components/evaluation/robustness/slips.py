"""Slips in a prompt: letters and words that go wrong, at a bounded rate and from a seed.

Names, numbers and words that begin a sentence are left whole: a slip in a name may make it another's, and then another
answer is right. What remains are words in lower case of three or more letters.
"""

import re
from collections.abc import Callable
from random import Random

from components.data.misspelling import misspelt as misspelt_word

_WORD = re.compile(r"(?<!\w)[^\W\d_]{3,}(?!\w)")
_FILLERS = ("well", "indeed", "really", "actually", "perhaps")

_Slip = Callable[[str, Random], str]


def misspelt(text: str, rate: float, rng: Random) -> str:
    """A letter left out, doubled, changed, or in its neighbour's place, in the share ``rate`` of the words."""
    return _slipped(text, rate, rng, misspelt_word)


def with_noisy_words(text: str, rate: float, rng: Random) -> str:
    """A word doubled, or a filler before it, at the share ``rate`` of the words."""
    return _slipped(text, rate, rng, _noise)


def _slipped(text: str, rate: float, rng: Random, slip: _Slip) -> str:
    """At least one word changes, if one may."""
    places = [found.span() for found in _WORD.finditer(text) if found[0].islower()]
    count = min(len(places), max(1, round(rate * len(text.split()))))
    for start, end in sorted(rng.sample(places, count), reverse=True):
        text = text[:start] + slip(text[start:end], rng) + text[end:]
    return text


def _noise(word: str, rng: Random) -> str:
    return f"{rng.choice((word, *_FILLERS))} {word}"
