"""One source file as the definitions in it, each with its digest and with what it names.

A definition is a top-level function, class or assignment. Comments, docstrings and layout are not part of its digest.
Statements that do something when the module is imported are kept apart: they run whoever imports the module.
"""

import ast
import gc
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from components.core.import_effects import UNKNOWN, Chain, dotted_name, unknown_calls

_NOT_WRITTEN = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
# A string may name a definition or a data file if it looks like this.
_NAME_IN_STRING = re.compile(r"[\w./:-]{1,100}")
NEUTRAL = "Neutral"
MAIN = "__main__"
EFFECTS = "statements run at import"
STAR = "*"
ANY, ANY_OWN = "any attribute", "any attribute of its own"
# Functions that may reach a method whose name is nowhere in the source.
_LOOKS_UP = frozenset({"getattr", "attrgetter", "methodcaller", "getmembers", "vars", "dir"})
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
# Called by name, these find definitions that the source does not name.
IN_MODULE = frozenset({"globals", "vars", "eval", "exec"})
SUBCLASSES = "__subclasses__"
SEARCHES = IN_MODULE | {"__import__"}


@dataclass(frozen=True)
class Import:
    """One imported name: ``name`` stands for ``target``, and importing it runs ``modules``."""

    name: str
    target: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Statement:
    """A top-level statement as the key sees it."""

    digest: str
    names: frozenset[Chain]
    """Every name and dotted name that is read and known to the module: ``("F", "cross_entropy")``."""
    strings: frozenset[str]
    mentions: frozenset[str]
    """Every name after a dot; ``ANY`` if it looks attributes up by names that are not spelt there."""
    imports: tuple[Import, ...]
    """Imports inside its functions."""
    calls_at_import: frozenset[Chain]
    """What it calls, or is decorated with, when the module is imported, as far as it is not known to be harmless."""
    methods: frozenset[str] | None = None
    """Names of a class's own methods; ``None`` for anything that is no class."""
    bases: frozenset[Chain] = frozenset()


@dataclass
class Module:
    """The definitions of one file, and what importing it does."""

    name: str
    definitions: dict[str, list[Statement]] = field(default_factory=dict)
    imports: list[Import] = field(default_factory=list)
    effects: list[Statement] = field(default_factory=list)
    bound_by_effects: set[str] = field(default_factory=set)
    """Names that effects define; referring to them adds nothing, because effects count anyway."""
    methods: dict[str, list[Statement]] = field(default_factory=dict)
    """By ``Class.method``."""
    used: set[str] = field(default_factory=set)
    """First names that any statement reads."""

    def define(self, name: str, statement: Statement) -> None:
        self.definitions.setdefault(name, []).append(statement)


@lru_cache(maxsize=2048)
def read_module(name: str, is_package: bool, source: bytes) -> Module:
    """Parse ``source``; cached by content, so that an edited file is never mistaken for the old one."""
    collecting = gc.isenabled()
    gc.disable()  # a syntax tree is a hundred thousand objects that all live: collecting doubles the time
    try:
        return _Reading(name, is_package).module(ast.parse(source, filename=name))
    finally:
        if collecting:
            gc.enable()


class _Reading:
    def __init__(self, name: str, is_package: bool) -> None:
        self.package = name if is_package else name.rpartition(".")[0]
        self.found = Module(name)

    def module(self, tree: ast.Module) -> Module:
        self.found.imports = list(self._imports(tree.body))
        self.scope = _scope(tree.body) | {each.name for each in self.found.imports} | SEARCHES
        known = {each.name: each.target for each in self.found.imports}
        for node in tree.body:
            self._take(node, known)
        return self.found

    def _take(self, node: ast.stmt, known: Mapping[str, str]) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom) or is_bare_string(node):
            return
        if isinstance(node, ast.If) and _is_typing_only(node):
            for other in node.orelse:
                self._take(other, known)
        elif isinstance(node, ast.If) and _is_main(node):
            self.found.define(MAIN, self._statement(node))
        elif names := _defined(node):
            statement = self._statement(node, unknown_calls(node, known))
            for name in names:
                self.found.define(name, statement)
            if isinstance(node, ast.ClassDef):
                self._take_parts(node)
        else:
            self.found.effects.append(self._statement(node))
            self.found.bound_by_effects.update(_bound(node))

    def _take_parts(self, node: ast.ClassDef) -> None:
        for part in node.body:
            if isinstance(part, _FUNCTION):
                self.found.methods.setdefault(f"{node.name}.{part.name}", []).append(self._statement(part))
            elif is_neutral_field(part):
                self.found.define(f"{node.name}.{part.target.id}", self._statement(part))  # type: ignore[attr-defined]

    def _statement(self, node: ast.stmt, calls_at_import: frozenset[Chain] = frozenset()) -> Statement:
        walk = _Walk(node)
        walk.visit(node)
        digest = hashlib.sha256("\n".join(walk.written).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        imports = tuple(each for line in walk.imports for each in self._import(line))
        names = self._in_scope(walk.names, imports)
        self.found.used.update(chain[0] for chain in names)
        return Statement(
            digest,
            names,
            frozenset(filter(_NAME_IN_STRING.fullmatch, walk.strings)),
            frozenset(walk.mentions),
            imports,
            calls_at_import,
            _methods(node),
            _bases(node),
        )

    def _in_scope(self, names: Iterable[Chain], imports: Iterable[Import]) -> frozenset[Chain]:
        """Without names of locals, parameters and builtins, which refer to nothing in the source."""
        scope = self.scope.union(each.name for each in imports)
        everything = STAR in scope
        return frozenset(name for name in names if everything or name[0] in scope or SUBCLASSES in name)

    def _imports(self, body: Iterable[ast.stmt]) -> Iterator[Import]:
        """Imports that run with the module itself: also those inside ``if``, ``try`` and class bodies."""
        for node in body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from self._import(node)
            elif isinstance(node, ast.If) and (_is_typing_only(node) or _is_main(node)):
                yield from self._imports(node.orelse)
            elif not isinstance(node, _FUNCTION):
                yield from self._imports(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))

    def _import(self, node: ast.Import | ast.ImportFrom) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                target = alias.name if alias.asname else alias.name.partition(".")[0]
                yield Import(alias.asname or target, target, (alias.name,))
            return
        above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            # ``from a import b``: b may be a module or a name in a; who resolves it knows.
            target = base if alias.name == "*" else f"{base}.{alias.name}"
            yield Import(STAR if alias.name == "*" else alias.asname or alias.name, target, (base, target))


class _Walk:
    """Writes a syntax tree down without what does not count, and collects what it names on the way."""

    def __init__(self, top: ast.stmt) -> None:
        # Of a class itself: its methods, and the fields that count only where they are used, stand apart.
        self.left_out = (
            {id(part) for part in top.body if isinstance(part, _FUNCTION) or is_neutral_field(part)}
            if (isinstance(top, ast.ClassDef))
            else set()
        )
        self.written: list[str] = []
        self.names: set[Chain] = set()
        self.strings: set[str] = set()
        self.mentions: set[str] = set()
        self.imports: list[ast.Import | ast.ImportFrom] = []

    def visit(self, node: ast.AST) -> None:
        kind = type(node)
        if (special := self._SPECIAL.get(kind)) and special(self, node):
            return
        self.written.append(kind.__name__)
        for name in node._fields:
            if name not in _NOT_WRITTEN:
                self._field(name, getattr(node, name, None))

    def _field(self, name: str, value: Any) -> None:
        if isinstance(value, ast.AST):
            if name in ("annotation", "returns"):
                self._names_in_quotes(value)
            self.written.append(name)
            self.visit(value)
        elif isinstance(value, list):
            self.written.append(f"{name} [")
            for each in value:
                if not isinstance(each, ast.AST):
                    self.written.append(repr(each))
                elif not is_bare_string(each) and id(each) not in self.left_out:
                    self.visit(each)
            self.written.append("]")
        elif value is not None:
            self.written.append(f"{name} {value!r}")

    # Each returns whether nothing is left to be written.

    def _name(self, node: ast.Name) -> bool:
        if type(node.ctx) is not ast.Store:
            self.names.add((node.id,))
        self.written.append(node.id)
        return True

    def _attribute(self, node: ast.Attribute) -> bool:
        self.mentions.add(node.attr)
        if chain := dotted_name(node):
            self.names.add(chain)
            self.mentions.update(chain[1:])
            self.written.append(".".join(chain))
        return chain is not None

    def _constant(self, node: ast.Constant) -> bool:
        if isinstance(node.value, str):
            self.strings.add(node.value)
        self.written.append(repr(node.value))
        return True

    def _import(self, node: ast.Import | ast.ImportFrom) -> bool:
        self.imports.append(node)
        return False

    def _global(self, node: ast.Global) -> bool:
        self.names.update((name,) for name in node.names)
        return False

    def _call(self, node: ast.Call) -> bool:
        if (dotted_name(node.func) or ("",))[-1] in _LOOKS_UP:
            spelt = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            receiver = dotted_name(node.args[0]) if node.args else None
            searched = ANY_OWN if receiver == ("self",) else ANY
            self.mentions.update([name for text in spelt for name in text.split(".")] or [searched])
        return False

    def _match_class(self, node: ast.MatchClass) -> bool:
        self.mentions.update(node.kwd_attrs)
        return False

    def _if(self, node: ast.If) -> bool:
        typing_only = _is_typing_only(node)
        if typing_only:
            self._field("orelse", node.orelse)
        return typing_only

    _SPECIAL: ClassVar[dict[type[ast.AST], Callable[["_Walk", Any], bool]]] = {
        ast.Name: _name,
        ast.Attribute: _attribute,
        ast.Constant: _constant,
        ast.Import: _import,
        ast.ImportFrom: _import,
        ast.Global: _global,
        ast.Call: _call,
        ast.MatchClass: _match_class,
        ast.If: _if,
    }

    def _names_in_quotes(self, annotation: ast.AST) -> None:
        for node in ast.walk(annotation):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                try:
                    inner = ast.parse(node.value, mode="eval")
                except SyntaxError:
                    continue  # the axes of an array, ``"batch seq"``
                self.names.update(chain for part in ast.walk(inner) if (chain := dotted_name(part)))


def is_neutral_field(node: ast.AST) -> bool:
    """Is this ``name: Annotated[type, Neutral(value)] = value``, a field that stays out of keys at its default?"""
    if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
        return False
    return any(
        isinstance(part, ast.Call)
        and isinstance(part.func, ast.Name)
        and part.func.id == NEUTRAL
        and len(part.args) == 1
        and ast.dump(part.args[0]) == ast.dump(node.value)
        for part in ast.walk(node.annotation)
    )


def is_bare_string(node: ast.AST) -> bool:
    """A docstring, or a string on a line of its own: documentation, which cannot change what the code does."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _defined(node: ast.stmt) -> list[str]:
    """Names that a plain definition binds; none for other statements."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign():
            targets = [part for target in node.targets for part in _flat(target)]
        case ast.AnnAssign():
            targets = [node.target]
        case _:
            return []
    return [part.id for part in targets if isinstance(part, ast.Name)] if _all_names(targets) else []


def _scope(body: Iterable[ast.stmt]) -> set[str]:
    return {name for node in body for name in (*_defined(node), *(_bound(node) if not _defined(node) else ()))}


def _flat(target: ast.expr) -> list[ast.expr]:
    return (
        [part for each in target.elts for part in _flat(each)] if isinstance(target, ast.Tuple | ast.List) else [target]
    )


def _all_names(targets: list[ast.expr]) -> bool:
    return all(isinstance(part, ast.Name) for part in targets)


def _bound(node: ast.stmt) -> set[str]:
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return names | {part.name for part in ast.walk(node) if isinstance(part, defined)}


def _methods(node: ast.stmt) -> frozenset[str] | None:
    if not isinstance(node, ast.ClassDef):
        return None
    return frozenset(part.name for part in node.body if isinstance(part, _FUNCTION))


def _bases(node: ast.stmt) -> frozenset[Chain]:
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    plain = (base.value if isinstance(base, ast.Subscript) else base for base in bases)  # Generic[T]
    return frozenset(dotted_name(base) or (UNKNOWN,) for base in plain)


def _is_typing_only(node: ast.If) -> bool:
    return (dotted_name(node.test) or ("",))[-1] == "TYPE_CHECKING"


def _is_main(node: ast.If) -> bool:
    return isinstance(node.test, ast.Compare) and dotted_name(node.test.left) == ("__name__",)
