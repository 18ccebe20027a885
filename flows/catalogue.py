"""The catalogue of flows: one entry for each, from which everything else about a flow follows.

A flow is a plain function of a ``FlowRun``, in a file of its own, declared by ``@flow``. Its Prefect flow
(``flows.entrypoints``), its deployments, the help page, the dry run and the reference in the docs are made of the
entry. Entries are read from the source, without importing it: a page of help must not load pydantic or torch.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from components.core.errors import InputError

if TYPE_CHECKING:
    from flows.run import FlowRun

Function = TypeVar("Function", bound="Callable[[FlowRun], object]")

FOLDER = Path(__file__).parent
_DECLARATION = "\n@flow("
_LAST = 1000


class Form(NamedTuple):
    """At what the form of a deployment stands when it opens."""

    preset: str
    overrides: list[str]


class Flow(NamedTuple):
    """The declaration of a flow."""

    name: str
    module: str
    description: str
    """Docstring of the function, as written."""
    summary: str
    """One line for the help page."""
    example: str
    """An override, ``key=value``, that makes sense for this flow."""
    order: int
    """Flows are listed by it."""
    per_preset: bool
    """One deployment for each preset, where a person would look for it, instead of one for all."""
    per_choice: str
    """The group of settings with a deployment for each of its choices; empty: none."""
    own: str
    """The section whose settings may be given without its name; empty: none."""
    words: str
    """The setting, a list, that takes the words without ``=`` of its command line; empty: it takes none."""

    @property
    def usage(self) -> str:
        """How its command line begins."""
        place = f" {self.words.rpartition('.')[2].upper()}" if self.words else ""
        return f"lacewing {self.name}{place and f'{place} ...'}"

    def deployments(
        self, presets: Iterable[str], default: str, choices: Callable[[str], Iterable[str]]
    ) -> dict[str, Form]:
        """Name of each deployment, and at what its form stands; ``choices`` are those of a group."""
        if self.per_preset:
            return {f"{self.name}-{preset}": Form(preset, []) for preset in presets}
        if self.per_choice:
            group = self.per_choice
            return {f"{self.name}-{choice}": Form(default, [f"{group}={choice}"]) for choice in choices(group)}
        return {self.name: Form(default, [])}

    def qualified(self, overrides: Iterable[str]) -> list[str]:
        """The overrides with every key in full: ``tasks=[text]`` may stand for ``evaluate.tasks=[text]``."""
        if not self.own:
            return list(overrides)
        from conf.compose import qualified

        return qualified(overrides, self.own)

    def __call__(self, run: "FlowRun") -> None:
        """Run the flow's function; only now is its module imported."""
        getattr(import_module(self.module), self.name)(run)


def flow(
    summary: str,
    *,
    example: str,
    order: int = _LAST,
    per_preset: bool = False,
    per_choice: str = "",
    own: str = "",
    words: str = "",
) -> "Callable[[Function], Function]":
    """Declare the decorated function a flow; for the arguments, literals all, see ``Flow``."""

    def declared(function: Function) -> Function:
        return function

    return declared


@cache
def flows() -> dict[str, Flow]:
    """Every flow by name, in the order of the help page."""
    found = [entry for path in sorted(FOLDER.glob("*.py")) for entry in _entries(path)]
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.order)}


def find_flow(name: str) -> Flow:
    """The flow called ``name``; raises ``InputError`` if there is none."""
    if name not in flows():
        raise InputError(f"unknown flow {name!r}; flows: {', '.join(flows())}")
    return flows()[name]


def _entries(path: Path) -> Iterator[Flow]:
    source = path.read_text(encoding="utf-8")
    if _DECLARATION not in source:
        return
    for node in ast.parse(source, str(path)).body:
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and _is_declaration(decorator.func):
                    yield _entry(path, node, decorator)


def _is_declaration(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Name) and decorator.id == flow.__name__


def _entry(path: Path, function: ast.FunctionDef, declaration: ast.Call) -> Flow:
    (summary,) = (ast.literal_eval(argument) for argument in declaration.args)
    options = {str(option.arg): ast.literal_eval(option.value) for option in declaration.keywords}
    settings = {"order": _LAST, "per_preset": False, "per_choice": "", "own": "", "words": "", **options}
    # As written: cleaning it would import ``inspect``, a quarter of the time that help takes.
    description = ast.get_docstring(function, clean=False) or summary
    return Flow(function.name, f"flows.{path.stem}", description, summary, **settings)
