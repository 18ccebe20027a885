"""Who wrote what, as an image: Prefect's pages show neither colours nor HTML, but they show images."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from components.evaluation.curve import FIGURE_STYLE, INK, save_figure
from components.evaluation.factuality.report import Text

_COLUMNS = 104
_SIZE = 10.0  # points
_ADVANCE = 0.602 * _SIZE / 72  # inches from one letter of DejaVu Sans Mono to the next
_LINE = 1.65 * _SIZE / 72  # inches
_GIVEN, _HELPER, _UNDER, _FALSE = "#8a8f98", "#fbe6b8", "#d9822b", "#c23a5c"

Letter = tuple[str, str, bool]
"""A character, who wrote it, whether it is part of a false statement."""


def draw_texts(texts: Sequence[Text], paths: Sequence[Path]) -> None:
    """Draw ``texts`` into every path: given words grey, the helper's words highlighted, false statements struck
    through.
    """
    lines = [line for text in texts for line in [*_lines(text), []]] or [[]]
    with matplotlib.rc_context({**FIGURE_STYLE, "text.hinting": "none"}):  # hinted letters would not fill their column
        figure = Figure(figsize=((_COLUMNS + 4) * _ADVANCE, (len(lines) + 1) * _LINE))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(-2, _COLUMNS + 2)
        axes.set_ylim(len(lines) + 0.5, -0.5)
        for row, line in enumerate(lines):
            column = 0
            for (author, false), group in groupby(line, key=lambda letter: letter[1:]):
                run = "".join(letter[0] for letter in group)
                if author == "helper":
                    axes.add_patch(Rectangle((column, row - 0.4), len(run), 0.84, facecolor=_HELPER, linewidth=0))
                    axes.plot([column, column + len(run)], [row + 0.44] * 2, color=_UNDER, linewidth=1.2)
                colour = _GIVEN if author == "given" else _FALSE if false else INK
                # A dollar sign is text, not the beginning of a formula.
                axes.text(column, row, run, family="DejaVu Sans Mono", size=_SIZE, va="center", color=colour,
                          parse_math=False)  # fmt: skip
                if false:
                    axes.plot([column, column + len(run)], [row] * 2, color=_FALSE, linewidth=1)
                column += len(run)
        save_figure(figure, paths)


def _lines(text: Text) -> Iterator[list[Letter]]:
    """The letters of a text, line by line."""
    letters = _letters(text)
    flat = "".join(letter[0] for letter in letters)
    at = 0
    for line in textwrap.wrap(flat, _COLUMNS, break_long_words=True, drop_whitespace=True) or [""]:
        at = flat.index(line, at)
        yield letters[at : at + len(line)]
        at += len(line)


def _letters(text: Text) -> list[Letter]:
    authors = ["small"] * len(text.text)
    for start, end, author in text.authors:
        authors[start:end] = [author] * (end - start)
    false = [False] * len(text.text)
    for start, end, _, _, true in text.claims:
        false[start:end] = [not true] * (end - start)
    shown = (" " if letter.isspace() or not letter.isprintable() else letter for letter in text.text)
    return list(zip(shown, authors, false, strict=True))
