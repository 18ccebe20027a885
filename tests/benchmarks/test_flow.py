import pytest
from rich.console import Console

from benchmarks.flow import as_text, closing_rows, shortened
from flows import console

ROWS = [
    ("config digest", "0861a3c23032beb6"),
    ("facts right", "45.4% alone, 91.2% with calls filled in"),
    ("it answered", "13 August. " + "He was educated at Saeskambre University. " * 4),
]


@pytest.fixture
def closing_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(console, "_out", Console(highlight=False, width=240))
    console.show_table("pipeline (world)", ROWS)
    return capsys.readouterr().out


def test_the_closing_table_of_a_flow_is_read_back(closing_table: str) -> None:
    assert list(closing_rows("a line of a stage\n" + closing_table)) == [(name, text.strip()) for name, text in ROWS]


def test_the_short_form_leaves_out_identities_and_cuts_long_lines(closing_table: str) -> None:
    lines = as_text(shortened(closing_rows(closing_table)), columns=60).splitlines()
    assert lines[1] == "facts right  45.4% alone, 91.2% with calls filled in"
    assert lines[2].startswith("it answered  13 August. ")
    assert lines[2].endswith(" …")
    assert len(lines) == 4
    assert max(map(len, lines)) <= 60
