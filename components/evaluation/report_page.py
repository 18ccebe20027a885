"""A report as one static HTML file and as markdown, from the same sections: tables, pictures, words and samples.

The HTML needs nothing but itself: no script, no font, no link to the outside. It can be read on a phone, printed and
sent by mail. Everything that is given is text and is escaped, except pictures, which matplotlib has drawn.
"""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_MARKDOWN_SIGNS = re.compile(r"([\\`*_{}\[\]#|~<>&])")
_NUMBER = re.compile(r"[-+±]?\d[\d,.]*( ?[%±].*)?|-?")

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #2b2f36; background: #fff; max-width: 60rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e4e6ea; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #8a8f98; } td.number, th.number { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; max-width: 36rem; } figure svg { width: 100%; height: auto; }
figcaption { color: #5c626b; font-size: .9rem; }
.sample { border-left: 3px solid #8a8f98; padding-left: .8rem; margin: 1rem 0; white-space: pre-wrap; }
.sample b { display: block; }
@media print { body { max-width: none; font-size: 11pt; } tr, figure, .sample { break-inside: avoid; }
  h2 { break-after: avoid; } .wide { overflow: visible; } }
"""


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows below a header; a column of numbers is set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        if uneven := [row for row in self.rows if len(row) != len(self.header)]:
            raise ValueError(
                f"a row of {len(uneven[0])} cells does not fit a header of {len(self.header)}: {uneven[0]}"
            )


@dataclass(frozen=True)
class Picture:
    """A drawing, and what it shows in words."""

    svg: str
    """As ``svg`` gives it."""
    shows: str


@dataclass(frozen=True)
class Sample:
    """Text that a model has written or was given, with its line breaks."""

    title: str
    text: str


Part = Words | Table | Picture | Sample


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[Part]


def page(title: str, sections: Iterable[Section]) -> str:
    """The report as HTML."""
    body = "\n".join(
        f"<section>\n<h2>{html.escape(section.title)}</h2>\n" + "\n".join(map(_html, section.parts)) + "\n</section>"
        for section in sections
    )
    name = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{body}\n</body>\n</html>\n"
    )


def markdown(title: str, sections: Iterable[Section]) -> str:
    """The same report as markdown, its pictures inside."""
    blocks = [f"# {_plain(title)}"]
    for section in sections:
        blocks += [f"## {_plain(section.title)}", *map(_markdown, section.parts)]
    return "\n\n".join(blocks) + "\n"


def svg(figure: "Figure", name: str) -> str:
    """A figure of matplotlib as an element of a page; the same figure gives the same text.

    ``name`` differs between the pictures of one page, so that one never refers to a part of another.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue()
    return _METADATA.sub("", drawn[drawn.index("<svg") :]).strip()


def _html(part: Part) -> str:
    match part:
        case Words():
            return f"<p>{html.escape(part.text)}</p>"
        case Table():
            return _html_table(part)
        case Picture():
            shows = html.escape(part.shows)
            return f'<figure role="img" aria-label="{shows}">{part.svg}<figcaption>{shows}</figcaption></figure>'
        case Sample():
            return f'<div class="sample"><b>{html.escape(part.title)}</b>{html.escape(part.text)}</div>'


def _html_table(table: Table) -> str:
    kinds = [' class="number"' if number else "" for number in _numeric(table)]
    head = "".join(f"<th{kind}>{html.escape(cell)}</th>" for cell, kind in zip(table.header, kinds, strict=True))
    rows = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _numeric(table: Table) -> list[bool]:
    """Which columns hold nothing but numbers and empty cells."""
    columns = [[row[place] for row in table.rows] for place in range(len(table.header))]
    return [any(column) and all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]


def _markdown(part: Part) -> str:
    match part:
        case Words():
            return _plain(part.text)
        case Table():
            signs = ["---:" if number else "---" for number in _numeric(part)]
            rows = [list(map(_plain, part.header)), signs, *([_plain(cell) for cell in row] for row in part.rows)]
            return "\n".join(f"| {' | '.join(row)} |" for row in rows)
        case Picture():
            encoded = base64.b64encode(part.svg.encode()).decode()
            return f"![{_plain(part.shows)}](data:image/svg+xml;base64,{encoded})"
        case Sample():
            quoted = "\n".join(f"> {_plain(line)}  " for line in part.text.split("\n"))
            return f"**{_plain(part.title)}**\n\n{quoted}"


def _plain(text: str) -> str:
    """Text on one line in which no sign is markdown or HTML."""
    return _MARKDOWN_SIGNS.sub(r"\\\1", " ".join(text.split("\n")))
