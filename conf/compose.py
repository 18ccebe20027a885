"""The one place that connects Hydra to the typed schema.

The schema's defaults are registered in Hydra's ConfigStore as a plain dict, listed first in the YAML; YAML states only
differences; the composed result is validated by pydantic. So every key exists (no ``+``), and the error for an unknown
key or a bad value quotes what the user wrote. ``conf.overrides`` checks overrides before Hydra sees them.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from components.core.errors import InputError
from components.core.identity import digest_json
from conf.overrides import Allowed, check, check_sweep, shown, values_of
from conf.schema import ProjectConfig

CONF = Path(__file__).parent
GROUPS = ("model", "data", "trainer", "derive", "gate", "finetune", "experiment")
DEFAULT_PRESET = "world"

Schema = TypeVar("Schema", bound=BaseModel)


class Preset(StrEnum):
    """The experiments that ship with the project; drawn as a drop-down in the Prefect form."""

    world = "world"
    text = "text"
    pydoc = "pydoc"
    gsm8k = "gsm8k"


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
    check(overrides, _project_names())
    return _composed_project(preset, tuple(overrides))


@cache
def _composed_project(preset: str, overrides: tuple[str, ...]) -> ProjectConfig:
    # The command line composes to tell mistakes at once, and the flow composes again; half a second each time.
    return validated(ProjectConfig, _composed([f"experiment={preset}", *overrides]))


def runs_to_check(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Runs of a sweep in which every value of every override occurs, far fewer than all of its runs.

    Raises:
        InputError: for an override that cannot be swept over, before the first run.
    """
    several = check_sweep(overrides, _project_names())
    first = [each[0] for each in several]
    yield first
    for place, each in enumerate(several):
        yield from ([*first[:place], value, *first[place + 1 :]] for value in each[1:])


def compose_section(schema: type[Schema], overrides: Sequence[str]) -> Schema:
    """The configuration of a command that has no groups (``serve``, ``up``): defaults, then overrides."""
    # Without Hydra's compose, which would take a key like ``model`` for one of its groups.
    check(overrides, Allowed(list(keys(schema))))
    return validated(schema, values_of(overrides))


@cache
def _project_names() -> Allowed:
    return Allowed(list(keys(ProjectConfig)), {group: choices(group) for group in GROUPS})


def qualified(overrides: Iterable[str], section: str) -> list[str]:
    """Overrides in which the keys of ``section`` may stand without its name, now with it; others are left as they are.

    Where a key of the section is also one of the whole, such as ``model``, the section has precedence.
    """
    schema = ProjectConfig.model_fields[section].annotation
    assert isinstance(schema, type)
    own = set(keys(schema))
    return [f"{section}.{each}" if each.partition("=")[0] in own else each for each in overrides]


def keys(schema: type[BaseModel]) -> Iterator[str]:
    """Dotted names of all values in ``schema`` and of the sections that hold them."""
    return (key for key, _ in fields(schema))


def fields(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name and declaration of all values in ``schema`` and of the sections that hold them."""
    for name, field in schema.model_fields.items():
        yield prefix + name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")


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
            _placed(".".join(str(part) for part in fault["loc"]), fault["input"], fault["msg"])
            for fault in error.errors()
        ]
        raise InputError("bad configuration\n  " + "\n  ".join(lines)) from error


def _placed(key: str, given: object, message: str) -> str:
    if not key:  # a rule of the whole configuration names its keys itself
        return message.removeprefix("Value error, ")
    value = "" if isinstance(given, Mapping) else f" = {shown(given) if isinstance(given, str) else repr(given)}"
    return f"{key}{value}: {message}"


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
            given = " ".join(map(shown, overrides))
            raise InputError(f"cannot compose {given}: {str(error).splitlines()[0]}") from error
        finally:
            Singleton.set_state(outer)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
