"""Words as people misspell them."""

from random import Random
from string import ascii_lowercase


def misspelt(word: str, rng: Random) -> str:
    """``word``, of two or more letters, with one letter left out, doubled, changed, or in its neighbour's place."""
    at = rng.randrange(len(word) - 1)
    before, letter, after = word[:at], word[at], word[at + 1 :]
    options = [
        before + after,
        before + letter + letter + after,
        before + rng.choice(ascii_lowercase.replace(letter, "")) + after,
    ]
    if letter != after[0]:
        options.append(before + after[0] + letter + after[1:])
    return rng.choice(options)
