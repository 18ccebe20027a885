"""Output on the terminal: one line per stage while a flow runs, one table at its end."""

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from components.deployment.artifact import SmokeAnswer

# Progress bars and stage lines go to stderr, results to stdout, so that results can be piped.
_err = Console(stderr=True, highlight=False)
_out = Console(highlight=False)

Row = tuple[str, str]

_FRAME = 7  # lines and spaces around two columns
_NARROWEST = 20


def say(message: str) -> None:
    """One line of progress."""
    _err.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """One line about something that needs attention but stops nothing."""
    _err.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def fail(message: str) -> None:
    """The error that ends the command."""
    _err.print(f"error: {message}", style="bold red", markup=False, soft_wrap=True)


def show_table(title: str, rows: Sequence[Row]) -> None:
    """Print the closing table of a flow."""
    table = Table(title=title, show_header=False, title_justify="left")
    # Names are never cut or folded, for people type them again; Rich would shrink both columns.
    names = max((len(name) for name, _ in rows), default=0)
    table.add_column(style="bold", min_width=names)
    table.add_column(overflow="fold", max_width=max(_NARROWEST, _out.width - names - _FRAME))
    for name, value in rows:
        table.add_row(Text(name), _coloured(value))
    _out.print(table)


def show(what: RenderableType) -> None:
    """Print something of rich's, such as a tree."""
    _out.print(what)


def _coloured(value: str) -> Text:
    """``value`` as it is, not as rich's markup; what a helper wrote stands out where there are colours."""
    begin, end = SmokeAnswer.MARKS
    text = Text(value)
    text.highlight_regex(f"{begin}[^{end}]*{end}", "bold yellow")
    return text
