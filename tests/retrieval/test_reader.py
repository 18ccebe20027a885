"""Slots that sentences open, and the values that articles give for them."""

import pytest

from components.retrieval.reader import Slot, slot_of, value_for

ARTICLE = (
    "Ada Maria Quill (3 May 1871 – 12 June 1932) was an engineer. She was born in Brackwater, where her father kept a "
    "shop. She was educated at Vesper Academy and graduated in 1892. She was buried in Orvik."
)
AMERICAN = "Bert Oskel (born April 25, 1940) is an actor. He studied at the University of Hjelm."


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("Ada Quill was born in the year", Slot("birth", ("year",))),
        ("Ada Quill was born on", Slot("birth", ("date",))),
        ("Ada was loved. She died in", Slot("death", ("name", "year"))),
        ("Ada Quill, born in Brackwater, was educated at", Slot("education", ("name",))),
        ("She was born. The town lies in", None),
        ("Ada Quill was born in Brackwater", None),
        ("Ada Quill liked boats in", None),
        ("", None),
    ],
)
def test_the_slot_at_the_end_of_a_text(text: str, slot: Slot | None) -> None:
    assert slot_of(text) == slot


@pytest.mark.parametrize(
    ("text", "article", "value"),
    [
        ("Ada Quill was born in the year", ARTICLE, "1871"),
        ("Ada Quill was born on", ARTICLE, "3 May 1871"),
        ("Ada Quill was born in", ARTICLE, "Brackwater"),
        ("Ada Quill died in the year", ARTICLE, "1932"),
        ("Ada Quill died on", ARTICLE, "12 June 1932"),
        ("Ada Quill died in", ARTICLE, "1932"),  # the article does not say where
        ("Ada Quill was educated at", ARTICLE, "Vesper Academy"),
        ("Ada Quill was buried in", ARTICLE, "Orvik"),
        ("Bert Oskel was born in the year", AMERICAN, "1940"),
        ("Bert Oskel was born on", AMERICAN, "April 25, 1940"),
        ("Bert Oskel studied at", AMERICAN, "University of Hjelm"),
        ("Bert Oskel died in", AMERICAN, ""),
        ("Bert Oskel died on", AMERICAN, ""),
        ("Bert Oskel was born in", "He went to school in Marnholm in 1950.", ""),
    ],
)
def test_the_value_that_an_article_gives(text: str, article: str, value: str) -> None:
    slot = slot_of(text)
    assert slot is not None
    assert value_for(slot, [article]) == value


def test_the_first_passage_that_tells_is_believed() -> None:
    slot = Slot("birth", ("year",))
    assert value_for(slot, ["Nothing is known.", AMERICAN, ARTICLE]) == "1940"
    assert value_for(slot, []) == ""
