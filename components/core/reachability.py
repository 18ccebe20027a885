"""Which first-party definitions a stage executes, found by reading the source.

From the stage's function on, every definition that a reached definition names is reached too: functions, classes (as a
whole, with bases and annotations), assignments. Modules are imported on the way; what they *do* on import counts with
all it names, what they merely define does not. Where the source does not say what is meant, more is counted: a module
used as a value or searched by ``globals()`` counts as a whole, a search through all modules counts them all. A data
file counts if a reached definition holds its name. The limits: third-party code is taken not to call back into
definitions that were not handed to it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from components.core.errors import InputError
from components.core.import_effects import Chain
from components.core.source_tree import Files, SourceTree, digest, first_name, prefixes, read_files
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
    graph = _graph(root, read_files(root, {*FIRST_PARTY, first_name(module)}))
    if not graph.tree.defines(module, name):
        raise InputError(f"{function!r} names no definition in the source below {root}")
    more = [(module, name) for module, _, name in (each.partition(":") for each in also)]
    return graph.reach([(module, name), *(node for node in more if graph.tree.defines(*node))])


@lru_cache(maxsize=2)
def _graph(root: Path, files: Files) -> "_Graph":
    """The graph of this very source; an edited file makes another one."""
    return _Graph(SourceTree(root, files))


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


class _Graph:
    """Which definition leads to which; what was found out for one stage is kept for the next."""

    def __init__(self, tree: SourceTree) -> None:
        self.tree = tree
        self._edges: dict[Node, _Edges] = {}

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
            code.update((path, self.tree.data_digest(path)) for path in edges.files)
            packages |= edges.packages
            search.follow(edges)
        return Reach(dict(sorted(code.items())), frozenset(packages))

    def _shown(self, node: Node) -> str:
        module, name = node
        if name == EFFECTS:
            return f"{module} ({EFFECTS})"
        is_field = "." in name and self.tree.defines(module, name)
        return f"{module}.{name}{OPTION if is_field else ''}"

    def _found(self, node: Node) -> _Edges:
        module, name = self.tree.module(node[0]), node[1]
        if name == STAR:
            return _Edges(nodes={(module.name, each) for each in (*module.definitions, *module.methods, EFFECTS)})
        if name == EFFECTS:
            return self._on_import(module)
        if name in module.methods:
            edges = self._named_by(module, module.methods[name])
            edges.mentions |= {ANY} if ANY_OWN in edges.mentions else set()
            return edges
        methods = {each: parts for each, parts in module.methods.items() if each.rpartition(".")[0] == name}
        if self._is_view(node):
            return self._of_view(module, name, methods)
        return self._named_by(
            module, [*module.definitions[name], *(part for each in methods.values() for part in each)]
        )

    def _of_view(self, module: Module, name: str, methods: Iterable[str]) -> _Edges:
        """Of a view, methods count if anything mentions their name, and those of Python itself always."""
        edges = self._named_by(module, module.definitions[name])
        by_name = {method.rpartition(".")[2]: (module.name, method) for method in methods}
        edges.nodes |= {node for method, node in by_name.items() if method.startswith("__")}
        edges.on_mention = {method: node for method, node in by_name.items() if not method.startswith("__")}
        return edges

    def _is_view(self, node: Node, below: frozenset[Node] = frozenset()) -> bool:
        """Is it a typed view? A stage uses few of its methods, and no library calls them: they count one by one."""
        module = self.tree.module(node[0])
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
            edges.nodes |= self._run_by_import(*line.modules)
            if line.name not in module.used and first_name(line.target) not in self.tree.packages:
                edges.packages.add(first_name(line.target))  # imported for what it does
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
            home = self.tree.module(at)
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
                at = self.tree.module(base[0])
                for each in at.definitions.get(base[1], []):
                    yield each.methods or frozenset()
                    yield from self._methods_above(at, each, seen | {base})

    def _meant(self, module: Module, statement: Statement, chain: Chain) -> set[Node]:
        """The first-party definitions that ``chain`` may refer to."""
        edges = _Edges()
        self._follow(module, statement, chain, edges)
        return {node for node in edges.nodes if node[1] != EFFECTS}

    def _run_by_import(self, *modules: str) -> set[Node]:
        return {(each, EFFECTS) for module in modules for each in self.tree.run_by_import(module)}

    def _named_by(self, module: Module, statements: Sequence[Statement]) -> _Edges:
        edges = _Edges(nodes={(module.name, EFFECTS)})
        meanings: dict[str, list[str]] = {}
        for statement in statements:
            for chain in statement.names:
                meanings[chain[0]] = self._follow(module, statement, chain, edges)
            for line in statement.imports:
                edges.nodes |= self._run_by_import(*line.modules)
                if first_name(line.target) not in self.tree.packages:
                    edges.packages.add(first_name(line.target))
            edges.mentions |= statement.mentions
            for text in statement.strings:
                self._read_string(module, text, edges)
        if statements:
            # What an imported name stands for belongs to the code that uses it: the import itself is not counted.
            meant = {name: targets for name, targets in meanings.items() if targets}
            edges.digest = digest([[statement.digest for statement in statements], meant])
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
                if star in self.tree and _binds(self.tree.module(star), name):
                    self._look_up((*star.split("."), *chain), edges)
        for target in targets:
            self._look_up((*target.split("."), *chain[1:]), edges)
        return targets

    def _look_up(self, parts: Sequence[str], edges: _Edges, seen: frozenset[tuple[str, ...]] = frozenset()) -> None:
        """Add what the dotted name ``parts`` refers to."""
        if parts[0] not in self.tree.packages:
            edges.packages.add(parts[0])
            if any(".".join(parts[:length]) in _REACHES_EVERYTHING for length in (2, 3)):
                edges.nodes |= self._everything()
            return
        name = next((n for n in prefixes(parts) if n in self.tree), None)
        if name is None or tuple(parts) in seen:
            return
        edges.nodes |= self._run_by_import(name)
        rest = parts[name.count(".") + 1 :]
        module = self.tree.module(name)
        if not rest:
            # The module itself is a value now: who has it may take anything in it.
            edges.nodes |= {(each, STAR) for each in self.tree if each == name or each.startswith(f"{name}.")}
        elif rest[0] in module.definitions:
            edges.nodes.add((name, rest[0]))
        elif targets := [line.target for line in module.imports if line.name == rest[0]]:
            for target in targets:
                self._look_up((*target.split("."), *rest[1:]), edges, seen | {tuple(parts)})
        elif not (rest[0] in module.bound_by_effects or rest[0] in _GIVEN_TO_MODULES):
            edges.nodes.add((name, STAR))

    def _everything(self) -> set[Node]:
        return {(name, STAR) for name in self.tree}

    def _read_string(self, module: Module, text: str, edges: _Edges) -> None:
        """A string may name a definition (``"package.module:name"``, ``python -m``) or a data file."""
        if _REFERENCE.fullmatch(text) and first_name(text) in self.tree.packages:
            self._look_up(text.replace(":", ".").split("."), edges)
        edges.files |= self.tree.data_files(module.name, text)


def _binds(module: Module, name: str) -> bool:
    return (
        name in module.definitions
        or name in module.bound_by_effects
        or any(line.name in (name, STAR) for line in module.imports)
    )
