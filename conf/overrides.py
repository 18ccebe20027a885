"""Overrides as people write them, checked and read before Hydra composes anything of them.

They may come from a web form, so ``key=value`` is all there is: on keys of the schema and choices of groups, and with
nothing that Hydra or OmegaConf would evaluate. All commands share Hydra's grammar of values.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from components.core.errors import InputError
from conf.nearest import did_you_mean

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

MAX_CHARACTERS = 4096
MAX_NESTING = 20  # Hydra's parser calls itself for every bracket
MAX_SWEEP = 1000
_SHOWN_CHARACTERS = 200
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_FORBIDDEN_VALUE = re.compile(r"\$\{|_target_")
_EVALUATED = "while evaluating"  # as Hydra begins what its functions say, such as ``int(a)``; else it speaks of grammar
_WAY = "write key=value with a key of the schema (no +, ++, ~, @ or --; every key already exists)"


class Allowed(NamedTuple):
    """What overrides may name."""

    keys: Collection[str]
    """Dotted names of the values, and of the sections that hold them."""
    groups: Mapping[str, Sequence[str]] = {}
    """Choices of every group."""

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.keys, *self.groups]))


def check(overrides: Sequence[str], allowed: Allowed) -> None:
    """Refuse everything but one ``key=value`` of what is ``allowed``.

    Raises:
        InputError: naming the override, what is allowed, and the nearest key or choice where one is near.
    """
    for override in overrides:
        _check_key(override, allowed)
        if _read(override).is_sweep_override():
            raise InputError(
                f"{shown(override)} stands for several values: add --multirun to run each of them, "
                "or quote it if it is text"
            )
        _check_choice(override, allowed)


def values_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides that passed ``check`` as a nested mapping; of two for one key the last counts."""
    values: dict[str, Any] = {}
    for override in overrides:
        *sections, name = override.partition("=")[0].split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = _read(override).value()
    return values


def check_sweep(overrides: Sequence[str], allowed: Allowed) -> list[list[str]]:
    """Overrides of a sweep: as ``check``, but a value may stand for several, ``model=quick,10m``.

    Returns:
        For every override, what it stands for.
    """
    for override in overrides:
        _check_key(override, allowed)
    several = [_each(override) for override in overrides]
    runs = 1
    for each in several:
        runs *= len(each)
        check(each, allowed)
    if runs > MAX_SWEEP:
        raise InputError(f"the sweep {' '.join(overrides)} is too large; at most {MAX_SWEEP:,} runs are allowed")
    return several


def list_override(key: str, words: Sequence[str]) -> str:
    """The override that sets ``key`` to the list of ``words``, whatever signs they hold."""
    return f"{key}=[{','.join(map(_in_quotes, words))}]"


def _in_quotes(text: str) -> str:
    # In Hydra's quotes a backslash stands for itself, unless a quote follows it, the closing one included.
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", text)
    return "'" + doubled.replace("'", "\\'") + "'"


def shown(given: str) -> str:
    """What was given, quoted, and shortened if it is long."""
    return repr(given if len(given) <= _SHOWN_CHARACTERS else given[:_SHOWN_CHARACTERS] + "...")


def _check_key(override: str, allowed: Allowed) -> None:
    key, equals, value = override.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise InputError(f"override {shown(override)} is not allowed: {_way_to_write(override, allowed.names)}")
    if len(override) > MAX_CHARACTERS:
        raise InputError(f"override of {key!r} has {len(override)} characters; {MAX_CHARACTERS} allowed")
    if _FORBIDDEN_VALUE.search(value):
        raise InputError(f"override {shown(override)} is not allowed: values may not interpolate or name a _target_")
    if (depth := _nesting(value)) > MAX_NESTING:
        raise InputError(f"the value of {key!r} nests brackets {depth} deep; {MAX_NESTING} allowed")
    if key not in allowed.names:
        top = f"; top-level keys: {', '.join(sorted(name for name in allowed.names if '.' not in name))}"
        raise InputError(f"unknown key {key!r}{did_you_mean(key, allowed.names) or top}")


def _way_to_write(override: str, known: Collection[str]) -> str:
    """What to write instead of an override that is none: with the key that was meant, if that can be told."""
    key, equals, value = override.lstrip("+~-").partition("=")
    key = key.replace("-", "_")
    if key not in known:
        return _WAY + did_you_mean(key, known)
    return f"{_WAY}; did you mean {key}={shown(value)[1:-1] if equals else '...'}?"


def _check_choice(override: str, allowed: Allowed) -> None:
    key, _, value = override.partition("=")
    if key in allowed.groups and value not in allowed.groups[key]:
        near = did_you_mean(value, allowed.groups[key])
        raise InputError(f"unknown {key} {shown(value)}; choices are {', '.join(allowed.groups[key])}{near}")


def _nesting(value: str) -> int:
    """How deep the brackets of ``value`` lie in each other, quoted ones included."""
    depth = deepest = 0
    for character in value:
        depth += (character in "[{(") - (character in "]})")
        deepest = max(deepest, depth)
    return deepest


def _read(override: str) -> "Override":
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        said = str(error).splitlines()[0]
        problem = said if _EVALUATED in said else "a bracket or quote is not closed, or a sign is not quoted"
        raise InputError(
            f"cannot read {shown(override)}: {problem}. Write lists as [a,b], and put text that holds one of "
            "\",':=()[]{}~!&<> into quotes: KEY='\"TEXT\"'"
        ) from error


def _each(override: str) -> list[str]:
    """The overrides that a sweep over ``override`` consists of."""
    from hydra.core.override_parser.types import Glob

    read = _read(override)
    if not read.is_sweep_override():
        return [override]
    if not read.is_discrete_sweep():
        raise InputError(f"{shown(override)} has no separate values to sweep over; write key=a,b or key=range(1,4)")
    key = override.partition("=")[0]
    if isinstance(read.value(), Glob):
        raise InputError(f"{shown(override)} names values by a pattern; write them out: key=a,b")
    found = [f"{key}={value}" for value in islice(read.sweep_string_iterator(), MAX_SWEEP + 1)]
    if not 0 < len(found) <= MAX_SWEEP:
        raise InputError(f"{shown(override)} stands for {'no value' if not found else f'more than {MAX_SWEEP} values'}")
    return found
