"""What a page consists of, whether it becomes markdown or HTML: paragraphs and tables of plain text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from components.evaluation.report import plain_text


@dataclass(frozen=True)
class Table:
    """A titled table; its cells are plain text and are escaped when a page is made of them."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


Part = str | Table
"""A paragraph of plain text, or a table."""


def markdown(title: str, parts: Iterable[Part]) -> str:
    """The page in markdown; whatever models and files say, it is shown as text."""
    return "\n\n".join([f"# {plain_text(title)}", *map(_part, parts)]) + "\n"


def _part(part: Part) -> str:
    if isinstance(part, str):
        return plain_text(part)
    lines = [part.header, ["---"] * len(part.header), *part.rows]
    return "\n".join([f"## {plain_text(part.title)}", "", *(_line(line) for line in lines)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell if cell == '---' else plain_text(cell) for cell in cells)} |"
