"""The word stocks and sentence patterns that lie beside this module as plain text, in ``[section]`` form."""

from functools import cache
from pathlib import Path
from random import Random

from components.data.world.chance import ByPopularity, shuffled

HERE = Path(__file__).parent


def sections(name: str) -> dict[str, list[str]]:
    """Lines of ``name`` by section, without comments and blank lines, in file order."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]") and "|" not in line:
            lines = found.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


@cache
def _stocks() -> dict[str, tuple[str, ...]]:
    return {
        section: tuple(entry for word in " ".join(lines).split(",") if (entry := word.strip()))
        for section, lines in sections("words.txt").items()
    }


def values(stock: str) -> tuple[str, ...]:
    """Words that facts are drawn from."""
    return _stocks()[f"value {stock}"]


def free_words(stock: str) -> tuple[str, ...]:
    """Words that state no fact, in the order of the file."""
    return _stocks()[f"free {stock}"]


class FreeWords:
    """Words that vary the prose and state no fact.

    Each world has its own favourites: like words everywhere, they go by Zipf's law, so that they are hard to guess but
    not as hard as a random name.
    """

    _EXPONENT = 1.0

    def __init__(self, seed: int) -> None:
        rng = Random(f"words {seed}")
        self._by_stock = {
            section.removeprefix("free "): ByPopularity(shuffled(rng, words), self._EXPONENT)
            for section, words in _stocks().items()
            if section.startswith("free ")
        }

    def pick(self, rng: Random, stock: str) -> str:
        """A word or phrase of ``stock``."""
        return self._by_stock[stock].pick(rng)
