"""Options of the command line, which begin with a dash: the known ones, and what a mistyped one was meant to be."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from components.core.errors import InputError
from conf.nearest import did_you_mean
from conf.overrides import list_override

DRY_RUN = "--dry-run"
SWEEP = {"--multirun", "-m"}
# Hydra's own, and whether a value follows.
HYDRA: Mapping[str, bool] = {
    "--multirun": False,
    "-m": False,
    "--cfg": True,
    "-c": True,
    "--package": True,
    "-p": True,
    "--resolve": False,
    "--info": False,
    "-i": False,
}
OF_FLOWS = (DRY_RUN, "--multirun", "--cfg", "--info", "--resolve", "--package", "--help")


class FlowArguments(NamedTuple):
    """What was typed after the name of a flow."""

    overrides: list[str]
    dry: bool
    hydra: list[str]
    """Options that Hydra acts on, with their values."""

    def with_words(self, key: str) -> "FlowArguments":
        """The words without ``=`` as the value of ``key``, a list; raises ``InputError`` if it is set twice."""
        words = [word for word in self.overrides if "=" not in word and not word.startswith("-")]
        if not key or not words:
            return self
        rest = [word for word in self.overrides if word not in words]
        if given := [word for word in rest if word.partition("=")[0] == key]:
            raise InputError(f"{' '.join(words)} and {given[0]} say the same thing twice: write one of them")
        return self._replace(overrides=[list_override(key, words), *rest])

    @property
    def sweep(self) -> bool:
        return not SWEEP.isdisjoint(self.hydra)


def read_flow_arguments(arguments: Sequence[str]) -> FlowArguments:
    """Options apart from overrides; raises ``InputError`` for a mistyped option."""
    overrides: list[str] = []
    hydra: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if name in HYDRA:
            hydra.append(word)
            if HYDRA[name] and not equals:
                hydra.append(_value(name, next(words, "")))
        elif word != DRY_RUN:
            overrides.append(word)
    check_options(overrides, OF_FLOWS)
    return FlowArguments(overrides, DRY_RUN in arguments, hydra)


def check_options(words: Sequence[str], options: Sequence[str]) -> None:
    """Refuse a word that is a mistyped option. Other words with dashes are left to the check of overrides."""
    for word in words:
        near = did_you_mean(word, options) if word.startswith("-") and "=" not in word else ""
        if near and word not in options:
            raise InputError(f"unknown option {word!r}{near} Options are {', '.join(options)}")


def _value(option: str, value: str) -> str:
    if not value:
        raise InputError(f"{option} needs a value, for example {option} job")
    return value
