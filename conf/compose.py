"""The one place that connects Hydra to the typed schema.

The schema's defaults are registered in Hydra's ConfigStore as a plain dict, listed first in the YAML; YAML states only
differences; the composed result is validated by pydantic. So every key exists (no ``+``), and the error for an unknown
key or a bad value quotes what the user wrote. Overrides may come from a web form, so they are checked before Hydra sees
them: ``key=value`` on schema keys and group choices only, and nothing that Hydra or OmegaConf would evaluate.
"""

import difflib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from components.core.errors import InputError
from components.core.identity import digest_json
from conf.schema import ProjectConfig

CONF = Path(__file__).parent
GROUPS = ("model", "data", "trainer", "gate", "experiment")
DEFAULT_PRESET = "world"
MAX_OVERRIDE_CHARACTERS = 4096

Schema = TypeVar("Schema", bound=BaseModel)


class Preset(StrEnum):
    """The experiments that ship with the project; drawn as a drop-down in the Prefect form."""

    world = "world"
    text = "text"
    pydoc = "pydoc"


_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_FORBIDDEN_VALUE = re.compile(r"\$\{|_target_")
# Hydra's compose works on a process-wide singleton and is not thread-safe.
_composing = threading.Lock()


def choices(group: str) -> list[str]:
    """Names that may be given as ``group=name``."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def digest(config: BaseModel) -> str:
    """Digest of a resolved configuration: equal exactly if two runs have the same settings."""
    return digest_json(config.model_dump(mode="json"))[:16]


def compose_project(preset: str = DEFAULT_PRESET, overrides: Sequence[str] = ()) -> ProjectConfig:
    """The configuration of a flow: preset, then overrides, validated.

    Raises:
        InputError: unknown preset or key, forbidden override, wrong type or out-of-range value.
    """
    if preset not in choices("experiment"):
        raise InputError(f"unknown preset {preset!r}; presets are {', '.join(choices('experiment'))}")
    check_overrides(overrides, ProjectConfig)
    return _composed_project(preset, tuple(overrides))


@cache
def _composed_project(preset: str, overrides: tuple[str, ...]) -> ProjectConfig:
    # The command line composes to tell mistakes at once, and the flow composes again; half a second each time.
    return validated(ProjectConfig, _composed([f"experiment={preset}", *overrides]))


def compose_section(schema: type[Schema], overrides: Sequence[str]) -> Schema:
    """The configuration of a command that has no groups (``serve``, ``up``): defaults, then overrides."""
    check_overrides(overrides, schema, groups=())
    from omegaconf import OmegaConf

    # Hydra would take a key like ``model`` for one of its groups.
    values = OmegaConf.merge(schema().model_dump(mode="json"), OmegaConf.from_dotlist(list(overrides)))
    return validated(schema, OmegaConf.to_container(values, resolve=True))  # type: ignore[arg-type]


def check_overrides(overrides: Sequence[str], schema: type[BaseModel], groups: Sequence[str] = GROUPS) -> None:
    """Refuse everything but ``key=value`` on keys of ``schema`` and choices of ``groups``.

    Raises:
        InputError: naming the override, what is allowed, and the nearest key where one is near.
    """
    known = set(keys(schema))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise InputError(
                f"override {override!r} is not allowed: write key=value with a key of the schema "
                "(no +, ++, ~ or @; every key already exists)"
            )
        if len(override) > MAX_OVERRIDE_CHARACTERS:
            raise InputError(f"override of {key!r} has {len(override)} characters; {MAX_OVERRIDE_CHARACTERS} allowed")
        if _FORBIDDEN_VALUE.search(value):
            raise InputError(f"override {override!r} is not allowed: values may not interpolate or name a _target_")
        if key in groups:
            if value not in choices(key):
                raise InputError(f"unknown {key} {value!r}; choices are {', '.join(choices(key))}")
        elif key not in known:
            near = difflib.get_close_matches(key, [*known, *groups], n=3, cutoff=0.6)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; top-level keys: {', '.join(_top(known))}"
            raise InputError(f"unknown key {key!r}{hint}")


def keys(schema: type[BaseModel]) -> Iterator[str]:
    """Dotted names of all values in ``schema`` and of the sections that hold them."""
    for name, field in schema.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{key}" for key in keys(field.annotation))


def register_defaults() -> None:
    """Register the schema's defaults with Hydra, as the plain-dict node that ``flow.yaml`` lists first."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="defaults", node=ProjectConfig().model_dump(mode="json"))


def validated(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """``values`` as an instance of ``schema``; raises ``InputError`` that lists every bad value by its key."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in fault['loc']) or 'configuration'}{_given(fault['input'])}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise InputError("bad configuration\n  " + "\n  ".join(lines)) from error


def _given(value: object) -> str:
    return "" if isinstance(value, Mapping) else f" = {value!r}"  # a whole section would make the message too long


def _top(names: set[str]) -> list[str]:
    return sorted(name for name in names if "." not in name)


def _composed(overrides: Sequence[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with _composing:
        # Under ``@hydra.main`` (the command line) Hydra is already initialised: set that aside and put it back.
        outer = Singleton.get_state()
        GlobalHydra.instance().clear()
        try:
            register_defaults()
            with initialize_config_dir(str(CONF), version_base="1.3"):
                composed = compose("flow", overrides=list(overrides))
            values = OmegaConf.to_container(composed, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(f"cannot read the overrides {list(overrides)}: {_first_lines(error)}") from error
        finally:
            Singleton.set_state(outer)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _first_lines(error: BaseException) -> str:
    return " ".join(str(error).split("\n")[:3])
