"""Help for the command line, made from the schema: every key with its default, its type and its meaning."""

import textwrap
from collections.abc import Iterator, Sequence

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from conf.compose import GROUPS, choices
from conf.schema import ProjectConfig

WIDTH = 110


def schema_help(schema: type[BaseModel], only: Sequence[str] = ()) -> str:
    """All keys of ``schema`` (or of its sections ``only``), one paragraph each."""
    lines: list[str] = []
    if schema is ProjectConfig and not only:
        lines += ["groups: " + "; ".join(f"{group}={'|'.join(choices(group))}" for group in GROUPS), ""]
    lines += _section(schema, "", only)
    return "\n".join(lines)


def _section(schema: type[BaseModel], prefix: str, only: Sequence[str]) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        if only and name not in only:
            continue
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield f"{prefix}{name}: {field.description or ''}"
            yield from _section(inner, f"{prefix}{name}.", ())
            yield ""
        else:
            yield f"  {prefix}{name}={_default(field)}  {_bounds(field)}".rstrip()
            text = " ".join((field.description or "").split())
            yield textwrap.fill(text, WIDTH, initial_indent="      ", subsequent_indent="      ")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _bounds(field: FieldInfo) -> str:
    kind = getattr(field.annotation, "__name__", str(field.annotation))
    options = getattr(field.annotation, "__args__", ()) if "Literal" in str(field.annotation) else ()
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = [
        f"{signs[name]} {getattr(rule, name)}" for rule in field.metadata for name in signs if hasattr(rule, name)
    ]
    return f"({'|'.join(map(str, options)) or kind}{', ' if limits else ''}{', '.join(limits)})"
