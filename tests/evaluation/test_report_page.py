"""Reports that need nothing but themselves, and say what was given as it was given."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from components.evaluation.report_page import Picture, Sample, Section, Table, Words, markdown, page, svg

HOSTILE = '<script>alert(1)</script> | `x` & "quoted" [a](http://b)\n# c'


class Reader(HTMLParser):
    """Collects the text and the elements of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words, self.tags, self.references = "", list[str](), list[str]()
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("href", "xlink:href", "src")]

    def handle_data(self, data: str) -> None:
        self.words += data


def chart(top: float = 1.0) -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0.0, top], label="scores")
    return figure


def every_part(text: str) -> list[Section]:
    return [
        Section(text, [Words(text), Table([text, "n"], [[text, "1"]]), Sample(text, text)]),
        Section("Plots", [Picture(svg(chart(), "one"), text), Picture(svg(chart(), "two"), text)]),
    ]


@given(st.text())
def test_whatever_is_given_is_read_as_text(text: str) -> None:
    whole = page(text, [Section("s", [Words(text), Table([text], [[text]]), Sample(text, text)])])
    reader = Reader(whole)
    assert reader.tags.count("script") == 0
    # A browser reads every end of a line as one newline.
    assert reader.words.count(text) >= 6 or not text.strip()


def test_a_page_leads_nowhere() -> None:
    reader = Reader(page("r", every_part(HOSTILE)))
    assert all(reference.startswith("#") for reference in reader.references)
    assert not {"link", "script", "img", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"@import|url\(['\"]?http", page("r", every_part("")))


def test_pictures_of_one_page_share_no_names() -> None:
    names = [set(re.findall(r'id="(p[0-9a-f]{6,})"', svg(chart(), name))) for name in ("one", "two")]
    assert names[0]
    assert not names[0] & names[1]


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert svg(chart(), "one") == svg(chart(), "one")
    assert svg(chart(), "one") != svg(chart(2.0), "one")


def test_columns_of_numbers_are_set_to_the_right() -> None:
    table = Table(["task", "score", "±"], [["blimp", "81.2 %", "0.4"], ["piqa", "-1,234.5", ""]])
    assert page("r", [Section("s", [table])]).count('class="number"') == 6
    assert "| --- | ---: | ---: |" in markdown("r", [Section("s", [table])])


def test_markdown_holds_the_same_without_a_sign_that_acts() -> None:
    text = markdown("r", every_part(HOSTILE))
    assert "<script" not in text.replace("\\<script", "")
    assert "data:image/svg+xml;base64," in text
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)


def test_a_row_of_another_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="1 cells does not fit a header of 2"):
        Table(["a", "b"], [["1"]])
