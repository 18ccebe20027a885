"""What of a row is the text of a document: one field, or a template of several such as ``{question}\\n{answer}``."""

from collections.abc import Mapping
from string import Formatter
from typing import NamedTuple


class TextField(NamedTuple):
    """A name of a field, or a template, in parts."""

    parts: tuple[tuple[str, str | None], ...]
    """Literal text, and the field that follows it; at the end there may be none."""

    @classmethod
    def parse(cls, written: str) -> "TextField":
        """A template has its fields in braces (``{{`` is a brace); what has no brace names one field.

        Raises ``ValueError`` for a template that cannot be read or names no field.
        """
        if not {"{", "}"} & set(written):
            return cls((("", written),))
        parts = []
        for literal, name, layout, conversion in Formatter().parse(written):
            if name == "" or layout or conversion:
                raise ValueError("in braces stands the name of a field and nothing else")
            parts.append((literal, name))
        if not any(name for _, name in parts):
            raise ValueError("it names no field")
        return cls(tuple(parts))

    @property
    def names(self) -> list[str]:
        """The fields, each once."""
        return list(dict.fromkeys(name for _, name in self.parts if name is not None))

    def text(self, values: Mapping[str, str]) -> str:
        """The document, given the text of each field."""
        return "".join(literal + ("" if name is None else values[name]) for literal, name in self.parts)
