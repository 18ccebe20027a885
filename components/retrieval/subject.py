"""Which document of the library is about a name? Its passages, for whoever reads values out of them.

An article rarely begins with the name by which people call its subject: "Oscar-Claude Monet", "Leopold Samuel Marks".
So the passages that BM25 finds for the name vote: a document about somebody names them more often than one that only
mentions them. And the document must say that it is about the name, in its title or in its first passage.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from components.retrieval.index import Passage
from components.retrieval.passages import WORD
from components.retrieval.reader import MONTH

Search = Callable[[Iterable[str]], list[Passage]]

_PIECE = re.compile(r"\w+")  # "Oscar-Claude" are two
_CANDIDATES = 3


def passages_about(name: Sequence[str], topic: Sequence[str], search: Search) -> list[str]:
    """Texts of the document about ``name`` (words in lower case) that tell of ``topic``, its beginning first.

    Empty if no document says that it is about the name. ``search``: the best passages for some words.
    """
    for title in _candidates(name, search(name))[:_CANDIDATES]:
        words = [word.lower() for word in WORD.findall(title)]
        found = [each for each in search([*words, *topic]) if each.title == title]
        found.sort(key=lambda each: not each.begins_document)
        if holds(title, name) or any(each.begins_document and holds(each.text, name) for each in found):
            return [each.text for each in found]
    return []


def holds(text: str, name: Iterable[str]) -> bool:
    """Whether every word of ``name`` stands in ``text``; an initial stands for any word that begins with it."""
    there = {piece.lower() for piece in _PIECE.findall(text)}
    firsts = {piece[0] for piece in there}
    return all(piece in (firsts if len(piece) == 1 else there) for piece in _pieces(name))


def _candidates(name: Sequence[str], found: Sequence[Passage]) -> list[str]:
    """Titles of documents that name it, those that it is the title of first, then by the number of passages."""
    votes = Counter(each.title for each in found if holds(f"{each.title} {each.text}", name))
    return sorted(votes, key=lambda title: (not _is_title(title, name), not holds(title, name), -votes[title]))


def _is_title(title: str, name: Sequence[str]) -> bool:
    """Whether the title begins with the name and no longer one: "John Milton 9 December", not "John Milton Hay"."""
    there, pieces = _PIECE.findall(title), _pieces(name)
    if [piece.lower() for piece in there[: len(pieces)]] != pieces:
        return False
    after = there[len(pieces)] if len(there) > len(pieces) else ""
    return not after.istitle() or re.fullmatch(MONTH, after) is not None


def _pieces(name: Iterable[str]) -> list[str]:
    return [piece for word in name for piece in _PIECE.findall(word)]
