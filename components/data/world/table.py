"""The fact table read from disk: the entities, their facts, and the form of the values."""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from components.core.errors import ArtifactError
from components.data.world.facts import SHARES, Entity, written
from components.data.world.prose import find

KINDS = (*SHARES, "place")


def is_year(relation: str) -> bool:
    """Whether values of ``relation`` are years."""
    return relation == "year" or relation.endswith("_year")


def class_of(letter: str) -> str:
    """What a value may begin with: "upper", "lower" or "digit"."""
    return "digit" if letter.isdigit() else "upper" if letter.isupper() else "lower"


@dataclass(slots=True)
class Profile:
    """What is known of the values of one relation."""

    holders: defaultdict[str, list[Entity]] = field(default_factory=lambda: defaultdict(list))
    """By value: whose it is, most popular first."""
    openings: set[str] = field(default_factory=set)
    """Classes of the first letters."""
    words: int = 1
    """Words of the longest value."""

    def add(self, value: str, holder: Entity) -> None:
        self.holders[value].append(holder)
        self.openings.add(class_of(value[0]))
        self.words = max(self.words, 1 + value.count(" "))


class FactTable:
    """Every entity of a closed world, most popular first."""

    def __init__(self, entities: Iterable[Entity]) -> None:
        self.entities = {entity.id: entity for entity in entities}
        self.by_name = {entity.name: entity for entity in self.entities.values()}
        self._profiles: dict[tuple[str, str], Profile] = defaultdict(Profile)
        self._kinds: dict[tuple[str, str], str] = {}
        for entity in self.entities.values():
            for relation, value in entity.values.items():
                self._profiles[entity.kind, relation].add(written(value), entity)
                if isinstance(value, Entity):
                    self._kinds[entity.kind, relation] = value.kind
        self._names = {kind: sorted(self._profiles[kind, "name"].holders) for kind in KINDS}

    @classmethod
    def load(cls, path: Path) -> "FactTable":
        """Read ``facts.jsonl``; raises ``ArtifactError`` if it is missing or is no fact table."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(
                f"{path} cannot be read as a fact table ({error}); give the facts.jsonl of a closed world, which a "
                "prepare artifact keeps in raw/world"
            ) from error
        entities: dict[str, Entity] = {}
        for number, line in enumerate(lines, 1):
            try:
                _add(json.loads(line), entities)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ArtifactError(f"{path}, line {number} is not a line of a fact table: {error!r}") from error
        if not entities:
            raise ArtifactError(f"{path} is an empty fact table; run `lacewing prepare` again")
        by_name = {entity.name: entity for entity in entities.values()}
        for entity in entities.values():
            entity.short_name = str(entity.values.get("surname", ""))
            for relation, value in entity.values.items():
                if relation != "name" and isinstance(value, str):
                    entity.values[relation] = by_name.get(value, value)
        return cls(entities.values())

    def profile(self, kind: str, path: tuple[str, ...]) -> Profile:
        """Of the last relation of ``path`` from an entity of ``kind``."""
        for relation in path[:-1]:
            kind = self._kinds.get((kind, relation), "")
        return self._profiles.get((kind, path[-1])) or Profile()

    def like(self, kind: str, beginning: str, true_of: list[tuple[tuple[str, ...], str]], limit: int) -> list[Entity]:
        """The most popular entities whose name has ``beginning`` and for which all ``true_of`` (path, value) hold;
        none if there is nothing to go by."""
        single = next(((path, value) for path, value in true_of if len(path) == 1), None)
        if beginning:
            names = self._names[kind]
            found: Iterable[Entity] = (self.by_name[name] for name in _with_prefix(names, beginning))
        elif single:
            found = self.profile(kind, single[0]).holders.get(single[1], [])
        else:
            return []
        return list(islice((entity for entity in found if _all_true(entity, true_of)), limit))


def _add(row: dict[str, str], entities: dict[str, Entity]) -> None:
    id, relation = row["id"].rsplit(".", 1)
    kind, value = row["kind"], row["value"]
    if kind not in KINDS or not value:
        raise ValueError(f"kind {kind!r} with value {value!r}: allowed are {', '.join(KINDS)}, and no empty value")
    entity = entities.setdefault(id, Entity(id, kind, row["subject"], "", {}))
    entity.values[relation] = int(value) if is_year(relation) else value


def _with_prefix(names: list[str], beginning: str) -> Iterator[str]:
    for index in range(bisect_left(names, beginning), len(names)):
        if not names[index].startswith(beginning):
            return
        yield names[index]


def _all_true(entity: Entity, statements: list[tuple[tuple[str, ...], str]]) -> bool:
    return all((value := find(entity, path)) is not None and written(value) == stated for path, stated in statements)
