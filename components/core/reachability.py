"""Which first-party definitions a stage executes, found by reading the source.

From the stage's function on, every definition that a reached definition names is reached too: functions, classes (as a
whole, with bases and annotations), assignments. Modules are imported on the way; what they *do* on import counts with
all it names, what they merely define does not. Where the source does not say what is meant, more is counted: a module
used as a value or searched by ``globals()`` counts as a whole, a search through all modules counts them all. A data
file counts if a reached definition holds its name. The limits: third-party code is taken not to call back into
definitions that were not handed to it.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from components.core.errors import InputError
from components.core.import_effects import Chain
from components.core.syntax import (
    ANY,
    ANY_OWN,
    EFFECTS,
    IN_MODULE,
    MAIN,
    STAR,
    SUBCLASSES,
    Module,
    Statement,
    read_module,
)

PROJECT_ROOT = Path(__file__).resolve().parents[2]
FIRST_PARTY = ("components", "kernels")
OPTION = " (option in use)"
_SEARCHES = """
    importlib.import_module importlib.reload sys.modules pkgutil.iter_modules pkgutil.walk_packages pkgutil.resolve_name
    pydoc.locate runpy.run_module runpy.run_path gc.get_objects
"""
# What may find any definition of any module.
_REACHES_EVERYTHING = frozenset(_SEARCHES.split())
_CONSTRUCTORS = frozenset({"__init__", "__new__", "__post_init__", "model_post_init"})
_VIEW = ("components.core.artifact", "Artifact")
_GIVEN_TO_MODULES = frozenset({"__name__", "__file__", "__doc__", "__path__", "__package__", "__spec__"})
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(:[A-Za-z_]\w*)?")
_NO_RESOURCE = frozenset({".py", ".pyc", ".pyi", ".so", ".typed"})


@dataclass(frozen=True)
class Reach:
    """What a function executes."""

    code: dict[str, str]
    """Digest of every reached definition and data file, by its name."""
    packages: frozenset[str]
    """First names of the third-party and standard modules that the reached definitions use."""


def reach(function: str, root: Path = PROJECT_ROOT, also: Iterable[str] = ()) -> Reach:
    """Everything that ``function`` (``module:name``) executes.

    Args:
        function: where to start; its package counts as first-party too.
        root: folder that holds the packages.
        also: more definitions that count, where the source has them under this name.

    Raises:
        InputError: there is no such function in the source below ``root``.
    """
    module, _, name = function.partition(":")
    tree = _tree(root, tuple(_files(root, {*FIRST_PARTY, _first(module)})))
    if not tree.has(module, name):
        raise InputError(f"{function!r} names no definition in the source below {root}")
    others = [(module, name) for module, _, name in (each.partition(":") for each in also) if tree.has(module, name)]
    return tree.reach([(module, name), *others])


def _files(root: Path, packages: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    """Paths below ``root`` with the source of Python files; data files are read when something needs them."""
    for package in sorted(packages):
        for folder, inner, names in os.walk(root / package):
            inner[:] = sorted(name for name in inner if name != "__pycache__" and not name.startswith("."))
            place = os.path.relpath(folder, root).replace(os.sep, "/")
            for name in sorted(names):
                if name.endswith(".py"):
                    with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123 - hundreds of files for every stage
                        yield f"{place}/{name}", file.read()
                elif not name.startswith(".") and Path(name).suffix not in _NO_RESOURCE:
                    yield f"{place}/{name}", None


@lru_cache(maxsize=2)
def _tree(root: Path, files: tuple[tuple[str, bytes | None], ...]) -> "_Tree":
    return _Tree(root, dict(files))


Node = tuple[str, str]
"""Module and definition; ``EFFECTS`` for what importing the module does, ``STAR`` for all of it."""


@dataclass
class _Edges:
    """What one definition leads to."""

    digest: str = ""
    nodes: set[Node] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    mentions: set[str] = field(default_factory=set)
    """Names of attributes that it uses, of whatever object."""
    on_mention: dict[str, Node] = field(default_factory=dict)
    """What it leads to if anything mentions the name: the methods of a view."""


class _Search:
    """Walks over everything that is reached, each once."""

    def __init__(self, start: Iterable[Node]) -> None:
        self._queue = list(start)
        self._seen = set(self._queue)
        self._mentioned: set[str] = set()
        self._waiting: dict[str, set[Node]] = {}

    def __iter__(self) -> Iterator[Node]:
        while self._queue:
            yield self._queue.pop()

    def follow(self, edges: _Edges) -> None:
        self._add(edges.nodes)
        for name, node in edges.on_mention.items():
            self._waiting.setdefault(name, set()).add(node)
        self._mentioned |= edges.mentions
        for name in list(self._waiting) if ANY in self._mentioned else self._waiting.keys() & self._mentioned:
            self._add(self._waiting.pop(name))

    def _add(self, nodes: set[Node]) -> None:
        self._queue.extend(nodes - self._seen)
        self._seen |= nodes


class _Tree:
    """The first-party source below ``root`` at one moment; what was found out is kept for the next stage."""

    def __init__(self, root: Path, files: dict[str, bytes | None]) -> None:
        self._root = root
        self._source = {_module_name(path): (path, text) for path, text in files.items() if text is not None}
        self._packages = {_first(name) for name in self._source}
        self._resources = [path for path, text in files.items() if text is None]
        self._resources_below: dict[str, dict[str, set[str]]] = {}
        self._edges: dict[Node, _Edges] = {}
        self._run: dict[str, set[Node]] = {}

    def has(self, module: str, name: str) -> bool:
        return module in self._source and name in self._module(module).definitions

    def reach(self, start: Sequence[Node]) -> Reach:
        code: dict[str, str] = {}
        packages: set[str] = set()
        search = _Search(start)
        for node in search:
            if node not in self._edges:
                self._edges[node] = self._found(node)
            edges = self._edges[node]
            if edges.digest:
                code[self._shown(node)] = edges.digest
            code.update((path, _file_digest(self._root / path)) for path in edges.files)
            packages |= edges.packages
            search.follow(edges)
        return Reach(dict(sorted(code.items())), frozenset(packages))

    def _shown(self, node: Node) -> str:
        module, name = node
        if name == EFFECTS:
            return f"{module} ({EFFECTS})"
        is_field = "." in name and name in self._module(module).definitions
        return f"{module}.{name}{OPTION if is_field else ''}"

    def _module(self, name: str) -> Module:
        path, text = self._source[name]
        return read_module(name, path.endswith("/__init__.py"), text)

    def _found(self, node: Node) -> _Edges:
        module = self._module(node[0])
        if node[1] == STAR:
            return _Edges(nodes={(module.name, name) for name in (*module.definitions, EFFECTS)})
        if node[1] == EFFECTS:
            return self._on_import(module)
        if node[1] in module.methods:
            edges = self._named_by(module, module.methods[node[1]])
            edges.mentions |= {ANY} if ANY_OWN in edges.mentions else set()
            return edges
        methods = {name: each for name, each in module.methods.items() if name.rpartition(".")[0] == node[1]}
        if not self._is_view(node):
            parts = [part for several in methods.values() for part in several]
            return self._named_by(module, [*module.definitions[node[1]], *parts])
        edges = self._named_by(module, module.definitions[node[1]])
        for name in methods:
            method = name.rpartition(".")[2]
            if method.startswith("__"):
                edges.nodes.add((module.name, name))
            else:
                edges.on_mention[method] = (module.name, name)
        return edges

    def _is_view(self, node: Node, below: frozenset[Node] = frozenset()) -> bool:
        """Is it a typed view? A stage uses few of its methods, and no library calls them: they count one by one."""
        module = self._module(node[0])
        return node == _VIEW or any(
            self._is_view(base, below | {node})
            for statement in module.definitions.get(node[1], [])
            for name in statement.bases
            for base in self._meant(module, statement, name) - below
        )

    def _on_import(self, module: Module) -> _Edges:
        edges = self._named_by(module, module.effects)
        edges.nodes |= self._run_by_import(module.name)
        for line in module.imports:
            edges.nodes.update(*map(self._run_by_import, line.modules))
            if line.name not in module.used and _first(line.target) not in self._packages:
                edges.packages.add(_first(line.target))  # imported for what it does
        edges.nodes |= {(module.name, name) for name in module.definitions if self._acts_on_import(module, name)}
        return edges

    def _acts_on_import(self, module: Module, name: str) -> bool:
        """Does the definition do more on import than give its name a value, as far as can be told?"""
        if name == MAIN:
            return False
        return any(
            not all(self._is_plain_class(module, statement, chain) for chain in statement.calls_at_import)
            or any("__init_subclass__" in methods for methods in self._methods_above(module, statement))
            for statement in module.definitions[name]
        )

    def _is_plain_class(self, module: Module, statement: Statement, chain: Chain) -> bool:
        """Is ``chain`` a first-party class that does nothing of its own when it is called?"""
        nodes = self._meant(module, statement, chain)
        for at, name in nodes:
            if name != chain[-1]:
                return False  # the module as a whole, or a method of the class
            home = self._module(at)
            for each in home.definitions[name]:
                if each.methods is None or _CONSTRUCTORS & each.methods.union(*self._methods_above(home, each)):
                    return False
        return bool(nodes)

    def _methods_above(
        self, module: Module, statement: Statement, seen: frozenset[Node] = frozenset()
    ) -> Iterator[frozenset[str]]:
        """Methods of the first-party base classes of a class."""
        for chain in statement.bases:
            for base in self._meant(module, statement, chain) - seen:
                at = self._module(base[0])
                for each in at.definitions.get(base[1], []):
                    yield each.methods or frozenset()
                    yield from self._methods_above(at, each, seen | {base})

    def _meant(self, module: Module, statement: Statement, chain: Chain) -> set[Node]:
        """The first-party definitions that ``chain`` may refer to."""
        edges = _Edges()
        self._follow(module, statement, chain, edges)
        return {node for node in edges.nodes if node[1] != EFFECTS}

    def _run_by_import(self, name: str) -> set[Node]:
        """Importing ``a.b.c`` runs a, a.b and a.b.c."""
        if name not in self._run:
            self._run[name] = {(each, EFFECTS) for each in _prefixes(name.split(".")) if each in self._source}
        return self._run[name]

    def _named_by(self, module: Module, statements: Sequence[Statement]) -> _Edges:
        edges = _Edges(nodes={(module.name, EFFECTS)})
        meanings: dict[str, list[str]] = {}
        for statement in statements:
            for chain in statement.names:
                meanings[chain[0]] = self._follow(module, statement, chain, edges)
            for line in statement.imports:
                edges.nodes.update(*map(self._run_by_import, line.modules))
                if _first(line.target) not in self._packages:
                    edges.packages.add(_first(line.target))
            edges.mentions |= statement.mentions
            for text in statement.strings:
                self._read_string(module, text, edges)
        if statements:
            # What an imported name stands for belongs to the code that uses it: the import itself is not counted.
            meant = {name: targets for name, targets in meanings.items() if targets}
            edges.digest = _digest([[statement.digest for statement in statements], meant])
        return edges

    def _follow(self, module: Module, statement: Statement, chain: Chain, edges: _Edges) -> list[str]:
        """Add what ``chain`` refers to; returns what its first name was imported as."""
        name = chain[0]
        if name in IN_MODULE:
            edges.nodes.add((module.name, STAR))
        if name == "__import__" or SUBCLASSES in chain:
            edges.nodes |= self._everything()
        if name in module.definitions:
            edges.nodes.add((module.name, name))
        targets = [line.target for line in (*module.imports, *statement.imports) if line.name == name]
        if not targets and name not in module.definitions:
            for star in (line.target for line in module.imports if line.name == STAR):
                if star in self._source and _binds(self._module(star), name):
                    self._look_up((*star.split("."), *chain), edges)
        for target in targets:
            self._look_up((*target.split("."), *chain[1:]), edges)
        return targets

    def _look_up(self, parts: Sequence[str], edges: _Edges, seen: frozenset[tuple[str, ...]] = frozenset()) -> None:
        """Add what the dotted name ``parts`` refers to."""
        if parts[0] not in self._packages:
            edges.packages.add(parts[0])
            if any(".".join(parts[:length]) in _REACHES_EVERYTHING for length in (2, 3)):
                edges.nodes |= self._everything()
            return
        name = next((n for n in _prefixes(parts) if n in self._source), None)
        if name is None or tuple(parts) in seen:
            return
        edges.nodes |= self._run_by_import(name)
        rest = parts[name.count(".") + 1 :]
        module = self._module(name)
        if not rest:
            # The module itself is a value now: who has it may take anything in it.
            edges.nodes |= {(each, STAR) for each in self._source if each == name or each.startswith(f"{name}.")}
        elif rest[0] in module.definitions:
            edges.nodes.add((name, rest[0]))
        elif targets := [line.target for line in module.imports if line.name == rest[0]]:
            for target in targets:
                self._look_up((*target.split("."), *rest[1:]), edges, seen | {tuple(parts)})
        elif not (rest[0] in module.bound_by_effects or rest[0] in _GIVEN_TO_MODULES):
            edges.nodes.add((name, STAR))

    def _everything(self) -> set[Node]:
        return {(name, STAR) for name in self._source}

    def _read_string(self, module: Module, text: str, edges: _Edges) -> None:
        """A string may name a definition (``"package.module:name"``, ``python -m``) or a data file."""
        if _REFERENCE.fullmatch(text) and _first(text) in self._packages:
            self._look_up(text.replace(":", ".").split("."), edges)
        edges.files |= self._below(self._source[module.name][0].rpartition("/")[0]).get(text, set())

    def _below(self, folder: str) -> dict[str, set[str]]:
        """Data files in and below ``folder``, by relative path and by bare name."""
        if folder not in self._resources_below:
            found: dict[str, set[str]] = {}
            for path in self._resources:
                if path.startswith(f"{folder}/"):
                    for name in (path[len(folder) + 1 :], path.rpartition("/")[2]):
                        found.setdefault(name, set()).add(path)
            self._resources_below[folder] = found
        return self._resources_below[folder]


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _first(dotted: str) -> str:
    return dotted.partition(".")[0]


def _prefixes(parts: Sequence[str]) -> Iterator[str]:
    return (".".join(parts[:length]) for length in range(len(parts), 0, -1))


def _binds(module: Module, name: str) -> bool:
    return (
        name in module.definitions
        or name in module.bound_by_effects
        or any(line.name in (name, STAR) for line in module.imports)
    )


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    """Digest of a data file; of JSON its values, so that layout does not count."""
    content = path.read_bytes()
    if path.suffix == ".json":
        return _digest(json.loads(content))
    return sha256(content).hexdigest()[:16]
