"""Does a top-level statement only give a value to a name, or does it do something when the module is imported?

``LIMIT = 3`` and ``@dataclass class Row`` count where they are used. ``register(Row)``, ``torch.library.define(...)``
and an unknown decorator may act on something else: such statements count wherever the module is imported.
The rule is one-sided. What is not on the lists below is taken to do something.
"""

import ast
import builtins
from collections.abc import Iterator, Mapping

Chain = tuple[str, ...]
UNKNOWN = "?"
# Calls that only return a value. A name without a dot stands for all of its module.
_SILENT = """
    abc collections contextlib contextvars dataclasses datetime decimal enum fractions itertools jaxtyping math operator
    pathlib re string types typing typing_extensions

    components.core.neutral.Neutral
    functools.cache functools.cached_property functools.lru_cache functools.partial functools.total_ordering
    functools.wraps
    logging.getLogger
    numpy.arange numpy.array numpy.dtype numpy.finfo numpy.iinfo numpy.ones numpy.uint32 numpy.uint64 numpy.zeros
    pydantic.AfterValidator pydantic.BeforeValidator pydantic.ConfigDict pydantic.Field pydantic.StringConstraints
    pydantic.computed_field pydantic.field_serializer pydantic.field_validator pydantic.model_serializer
    pydantic.model_validator
    threading.Lock threading.RLock
    torch.device torch.inference_mode torch.no_grad
    triton.jit triton.language.constexpr
"""
_METHODS = """
    absolute bit_length count decode deleter encode endswith format get getter hex index isspace items join joinpath
    keys lower removeprefix removesuffix replace resolve rsplit setter split splitlines startswith strip title union
    upper values with_name with_suffix
"""
_SILENT_CALLS = frozenset(_SILENT.split())
_SILENT_METHODS = frozenset(_METHODS.split())
_LOUD_BUILTINS = frozenset(
    {"__import__", "compile", "delattr", "eval", "exec", "globals", "input", "open", "print", "setattr", "vars"}
)
_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef


def unknown_calls(node: ast.stmt, imported: Mapping[str, str]) -> frozenset[Chain]:
    """Names of what ``node`` calls while the module is imported, without calls that are known only to give a value.

    ``imported`` says what the names of the module's imports stand for. ``UNKNOWN`` is what has no name.
    """
    found = {_unknown(function, imported) for function in _run_at_import(node)}
    if isinstance(node, ast.ClassDef) and node.keywords:
        found.add((UNKNOWN,))  # a metaclass, or arguments of __init_subclass__: the base class acts
    return frozenset(found - {None})  # type: ignore[arg-type]


def dotted_name(node: ast.AST) -> Chain | None:
    """``("F", "cross_entropy")`` for ``F.cross_entropy``; ``None`` for anything that is not names and dots."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else None


def _run_at_import(node: ast.AST) -> Iterator[ast.expr]:
    """Functions called, and decorators applied, while the statement itself runs; not what its functions do later."""
    if isinstance(node, _DEFINITIONS | ast.ClassDef):
        for decorator in node.decorator_list:
            yield decorator.func if isinstance(decorator, ast.Call) else decorator
            yield from _within(decorator.args if isinstance(decorator, ast.Call) else [])
    if isinstance(node, _DEFINITIONS):
        yield from _within([*node.args.defaults, *filter(None, node.args.kw_defaults)])
    elif isinstance(node, ast.ClassDef):
        yield from _within([*node.bases, *node.body])
    elif not isinstance(node, ast.Lambda):
        if isinstance(node, ast.Call):
            yield node.func
        yield from _within(ast.iter_child_nodes(node))


def _within(nodes: Iterator[ast.AST] | list[ast.AST] | list[ast.expr]) -> Iterator[ast.expr]:
    for node in nodes:
        yield from _run_at_import(node)


def _unknown(function: ast.expr, imported: Mapping[str, str]) -> Chain | None:
    chain = dotted_name(function)
    if chain and chain[0] in imported:
        target = ".".join([imported[chain[0]], *chain[1:]])
        silent = target in _SILENT_CALLS or target.partition(".")[0] in _SILENT_CALLS
    elif isinstance(function, ast.Attribute):  # a method of a value; a decorator ``@name.setter`` is one too
        silent = function.attr in _SILENT_METHODS
    else:
        silent = chain is not None and hasattr(builtins, chain[0]) and chain[0] not in _LOUD_BUILTINS
    return None if silent else chain or (UNKNOWN,)
