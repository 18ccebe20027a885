"""Identity of a stage: the key under which its result is stored and found again, and why two keys differ.

key = hash(stage name, resolved config slice, content of the inputs, the first-party definitions that the stage
executes, versions of the packages that these import). Nothing else moves a key: see ``neutral``, ``reachability`` and
``packages``.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.core.neutral import FieldPath, neutral_fields, without
from components.core.packages import VersionOf, environment_of, installed_version
from components.core.reachability import OPTION, PROJECT_ROOT, reach

NAMES_SHOWN = 4


class RecordedIdentity(BaseModel):
    """An identity as a record holds it.

    Stages write this, so it counts as code of every stage; ``Identity``, which computes it, does not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    stage: str
    """Name of the stage, for example ``pretrain``."""
    key: str
    """32 hexadecimal digits over all the fields below and the stage's name."""
    config: dict[str, Any]
    """The resolved configuration slice of this stage."""
    neutral: list[FieldPath] = []
    """Fields of ``config`` at their neutral value, which are no part of the key."""
    inputs: dict[str, str]
    """Content digest of every input artifact, by the name of the parameter, and of every outside source."""
    code: dict[str, str]
    """Digests of the first-party definitions and data files that the stage executes and reads, by name."""
    environment: dict[str, str]
    """Versions of the distributions that this code depends on, and of Python."""


class Identity(RecordedIdentity):
    """Everything that decides a stage's output, and the key that follows from it."""

    @classmethod
    def of(
        cls,
        stage: str,
        function: str,
        config: BaseModel,
        inputs: Mapping[str, str],
        *,
        root: Path = PROJECT_ROOT,
        version_of: VersionOf = installed_version,
    ) -> "Identity":
        """The identity of ``stage``, implemented by ``function``, for this config and these contents of its inputs.

        Args:
            stage: name of the stage.
            function: ``module:name``.
            config: the stage's slice of the configuration.
            inputs: content digest of each input by name, and of what is read from outside.
            root: folder of the source to look at.
            version_of: version of an installed distribution by its name.

        Raises:
            InputError: ``function`` is not in the source below ``root``.
        """
        optional = list(neutral_fields(config))
        found = reach(function, root, also=[field.declaration for field in optional if not field.is_neutral])
        return cls.from_parts(
            stage,
            config=config.model_dump(mode="json"),
            neutral=[field.path for field in optional if field.is_neutral],
            inputs=inputs,
            code=found.code,
            environment=environment_of(found.packages, version_of),
        )

    @classmethod
    def from_parts(
        cls,
        stage: str,
        *,
        config: Mapping[str, Any],
        neutral: Sequence[FieldPath] = (),
        inputs: Mapping[str, str],
        code: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> "Identity":
        """An identity of given parts: the one place that says how they make a key."""
        counted = {
            "stage": stage,
            "config": without(config, neutral),
            "inputs": dict(inputs),
            "code": dict(code),
            "environment": dict(environment),
        }
        parts = {**counted, "config": dict(config), "neutral": list(neutral)}
        return cls(key=digest_json(counted)[:32], **parts)

    def changes_since(self, older: RecordedIdentity) -> list[str]:
        """What makes this key differ from ``older``'s, in words."""
        return [
            *_config_changes(older, self),
            *self.changes_of_code_since(older),
            *_named("input changed", _differences(older.inputs, self.inputs), NAMES_SHOWN),
        ]

    def changes_of_request_since(self, older: RecordedIdentity) -> list[str]:
        """Only what was asked for: configuration and inputs. Empty if ``older`` would be the answer of other code."""
        inputs = _named("input changed", _differences(older.inputs, self.inputs), NAMES_SHOWN)
        return [*_config_changes(older, self), *inputs]

    def changes_of_code_since(self, older: RecordedIdentity, names_shown: int = NAMES_SHOWN) -> list[str]:
        """Only what it runs on: definitions, data files and packages; of many definitions the first few are named."""
        definitions = _differences(_definitions(older.code), _definitions(self.code))
        return [
            *_named("code changed", definitions, names_shown),
            *_named("data file changed", _differences(_data_files(older.code), _data_files(self.code)), names_shown),
            *_package_changes(older.environment, self.environment),
        ]


def digest_json(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a nested mapping with their dotted names."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _config_changes(older: RecordedIdentity, newer: RecordedIdentity) -> Iterator[str]:
    before, now = dict(leaves(older.config)), dict(leaves(newer.config))
    counted = _differences(*(dict(leaves(without(each.config, each.neutral))) for each in (older, newer)))
    return (f"{name} {before.get(name)} -> {now.get(name)}" for name in counted)


def _package_changes(older: Mapping[str, str], newer: Mapping[str, str]) -> Iterator[str]:
    for name in _differences(older, newer):
        kind = "Python" if name == "python" else f"package changed: {name}"
        yield f"{kind} {older.get(name, 'not used')} -> {newer.get(name, 'not used')}"


def _differences(older: Mapping[str, Any], newer: Mapping[str, Any]) -> list[str]:
    absent = object()
    return sorted(name for name in older.keys() | newer.keys() if older.get(name, absent) != newer.get(name, absent))


def _definitions(code: Mapping[str, str]) -> dict[str, str]:
    """Without the declarations of fields that are not at their neutral value: the config shows those."""
    return {name: digest for name, digest in code.items() if "/" not in name and not name.endswith(OPTION)}


def _data_files(code: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in code.items() if "/" in name}


def _named(what: str, names: Sequence[str], names_shown: int) -> Iterator[str]:
    if names:
        more = f" and {len(names) - names_shown} more" if len(names) > names_shown else ""
        yield f"{what}: {', '.join(names[:names_shown])}{more}"
