"""The article of an entity in passages, and the passages that are closest to a statement.

As in FActScore (arXiv:2305.14251): passages of at most 256 tokens, and the best five for the name of the entity
together with the statement. We use BM25, one of the published ways, and count a token as three quarters of a word.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from components.core.errors import InputError
from components.evaluation.factuality.records import json_lines
from components.evaluation.heldout import first_shuffled
from components.retrieval.bm25 import Bm25
from components.retrieval.passages import CHUNK, passages

_PASSAGE_WORDS = 192
_WORD = re.compile(r"\w+")


class Article(NamedTuple):
    """One article."""

    title: str
    text: str


class Passages:
    """The passages of one article."""

    def __init__(self, article: Article) -> None:
        self.title = article.title
        pieces = passages(article.text, _PASSAGE_WORDS, word=CHUNK, whole_sentences=True)
        self.texts = [piece.rstrip() for piece in pieces]
        self._bm25 = Bm25.over(map(_words, self.texts))

    def closest(self, statement: str, count: int) -> list[str]:
        """At most ``count`` passages, the closest first; of equals the earlier."""
        found = self._bm25.best(_words(f"{self.title} {statement}"), count)
        others = (number for number in range(len(self.texts)) if number not in found)
        return [self.texts[number] for number in islice(chain(found, others), count)]


def read_entities(path: Path, limit: int) -> dict[str, str]:
    """Entities and the ids of their articles, at most ``limit`` by a fixed shuffle.

    Raises ``InputError`` naming the line that has no ``entity`` or ``article``.
    """
    rows: list[tuple[str, str]] = []
    for place, row in json_lines(path, "facts.factscore.entities"):
        entity, article = row.get("entity"), row.get("article")
        if not (isinstance(entity, str) and entity.strip() and isinstance(article, str) and article):
            raise InputError(f"{place} needs `entity` and `article`, both texts; given {entity!r} and {article!r}")
        rows.append((entity, article))
    if not rows:
        raise InputError(f"{path} names no entity: give one JSON object with `entity` and `article` a line")
    return dict(rows[i] for i in first_shuffled(len(rows), limit))


def read_articles(paths: Iterable[Path], wanted: Sequence[str]) -> dict[str, Article]:
    """The articles with the ids ``wanted``; raises ``InputError`` if some are in none of ``paths``."""
    missing = set(wanted)
    found: dict[str, Article] = {}
    searched = list(paths)
    for path in searched:
        for place, row in json_lines(path, "facts.factscore.knowledge"):
            if (id := row.get("id")) not in missing:
                continue
            title, text = row.get("title"), row.get("text")
            if not (isinstance(title, str) and isinstance(text, str) and text.strip()):
                raise InputError(f"{place} needs `title` and `text`, both texts, for the article {id!r}")
            found[str(id)] = Article(title, text)
            missing.discard(str(id))
    if missing:
        raise InputError(
            f"{len(missing)} of {len(set(wanted))} articles are in none of {', '.join(map(str, searched))}, such as "
            f"{min(missing)!r}: facts.factscore.knowledge must hold the articles that facts.factscore.entities names"
        )
    return found


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]
