"""The word stocks and sentence patterns that lie beside this module as plain text, in ``[section]`` form."""

from functools import cache
from pathlib import Path

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


def free_words(stock: str) -> tuple[str, ...]:
    """Words that colour the prose and state no fact."""
    return _stocks()[f"free {stock}"]


def values(stock: str) -> tuple[str, ...]:
    """Words that facts are drawn from."""
    return _stocks()[f"value {stock}"]
