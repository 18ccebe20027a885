"""What people see on the terminal."""

import io

import pytest
from rich.console import Console

from flows import console


def shown(monkeypatch: pytest.MonkeyPatch, value: str, terminal: bool) -> str:
    file = io.StringIO()
    out = Console(file=file, force_terminal=terminal, color_system="standard" if terminal else None, width=100)
    monkeypatch.setattr(console, "_out", out)
    console.show_table("pipeline", [("it answered", value)])
    return file.getvalue()


def test_the_helpers_words_are_coloured_on_a_terminal_and_marked_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    value = "‹Brack water›. She died in ‹1801›."
    assert value in shown(monkeypatch, value, terminal=False)
    assert "\x1b[1;33m‹Brack water›\x1b[0m. She died in \x1b[1;33m‹1801›\x1b[0m." in shown(
        monkeypatch, value, terminal=True
    )


@pytest.mark.parametrize("value", ["data.sources=[articles]", "[bold]", "[/]", "a [red]word[/red]"])
def test_brackets_in_a_value_are_text(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert value in shown(monkeypatch, value, terminal=False)
