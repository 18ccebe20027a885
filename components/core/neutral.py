"""Config fields that stay out of a stage's key while they have a neutral value.

An option that arrives later would give every old model another key, although nothing changed for it. Its field says
at which value the stage does what it did before the option existed::

    clip_attention: Annotated[float, Neutral(0.0)] = 0.0

At that value the field is left out of the key, and at that default its declaration is no part of the code either.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Neutral:
    """Annotation of a field: at ``value`` it is as if the field did not exist."""

    value: Any


@dataclass(frozen=True)
class NeutralField:
    """One field with a neutral value in one configuration."""

    path: FieldPath
    is_neutral: bool
    declaration: str
    """``module:Class.field`` of the class that declares it."""


def neutral_fields(config: Any, path: FieldPath = ()) -> Iterator[NeutralField]:
    """All fields of ``config``, and of what it holds, that declare a neutral value."""
    if isinstance(config, BaseModel):
        for name, info in type(config).model_fields.items():
            value, here = getattr(config, name), (*path, name)
            declared = [each.value for each in info.metadata if isinstance(each, Neutral)]
            at_neutral = any(_json(value) == _json(each) for each in declared)
            if declared:
                yield NeutralField(here, at_neutral, _declaration(type(config), name))
            if not at_neutral:
                yield from neutral_fields(value, here)
    elif isinstance(config, Mapping):
        for name, value in config.items():
            yield from neutral_fields(value, (*path, str(name)))
    elif isinstance(config, Sequence) and not isinstance(config, str | bytes):
        for position, value in enumerate(config):
            yield from neutral_fields(value, (*path, position))


def without(config: Mapping[str, Any], paths: Sequence[FieldPath]) -> dict[str, Any]:
    """``config`` as JSON values, without what lies at ``paths``."""
    kept = deepcopy(dict(config))
    for path in paths:
        place: Any = kept
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]
    return kept


def _json(value: Any) -> Any:
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _declaration(model: type[BaseModel], name: str) -> str:
    owner = next(each for each in model.__mro__ if name in inspect.get_annotations(each))
    return f"{owner.__module__}:{owner.__qualname__}.{name}"
