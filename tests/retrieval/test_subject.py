"""The document about a name, among documents that only mention it."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from components.retrieval.index import Passage, PassageIndex, build_index
from components.retrieval.subject import holds, passages_about

PADDING = " ".join(f"The archive keeps {number} letters of that time." for number in range(40))
DOCUMENTS = {
    "claude": f"Oscar-Claude Vanier (14 November 1840 – 5 December 1926) was a painter. {PADDING} "
    f"Claude Vanier travelled. {PADDING} Claude Vanier exhibited. {PADDING} Claude Vanier wrote.",
    "pupil": f"Camille Roche (10 July 1830 – 1903) was a pupil of Claude Vanier and born in Arle. {PADDING}",
    "king": f"Oskar II (21 January 1829 – 1907) was king of the two parts of Norland. {PADDING}",
    "grandson": f"Oskar III (3 March 1880 – 1950) was king of Norland after Oskar II, his father. {PADDING}",
    "milton": f"John Harwood Hay (8 October 1838 – 1905) was a secretary. {PADDING}",
    "poet": f"John Harwood (9 December 1608 – 1674) was a poet. {PADDING}",
    "soldier": f"Thomas Edwin Lorne (16 August 1888 – 1935) was a soldier. {PADDING}",
    "pen": f"Mary Anne Ewing (22 November 1819 – 1880), known by her pen name George Elyot, was a novelist. {PADDING} "
    f"George Elyot was read everywhere. {PADDING}",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> PassageIndex:
    folder = tmp_path_factory.mktemp("index")
    build_index(DOCUMENTS.values(), folder)
    return PassageIndex(folder)


def about(index: PassageIndex, *name: str) -> list[str]:
    def search(query: Iterable[str]) -> list[Passage]:
        return index.best(query, 16)

    return passages_about(name, ("born", "birth"), search)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        (("claude", "vanier"), "claude"),  # half of a double name
        (("camille", "roche"), "pupil"),
        (("oskar", "ii", "norland"), "king"),  # "of Norland" stands in the first passage only
        (("john", "harwood"), "poet"),  # not Hay, whose name begins with it
        (("john", "harwood", "hay"), "milton"),
        (("t", "lorne"), "soldier"),  # an initial
        (("george", "elyot"), "pen"),  # a name that the title does not hold
    ],
)
def test_it_is_found_and_begins_with_its_beginning(index: PassageIndex, name: tuple[str, ...], document: str) -> None:
    found = about(index, *name)
    assert found
    assert DOCUMENTS[document].startswith(found[0][:60])
    assert all(passage in DOCUMENTS[document] for passage in found)


def test_a_name_that_is_only_mentioned_or_unknown_has_no_document(index: PassageIndex, tmp_path: Path) -> None:
    assert about(index, "zebulon", "quince") == []
    build_index([f"Camille Roche (1830 – 1903) was a painter. {PADDING} He met Claude Vanier. {PADDING}"], tmp_path)
    assert about(PassageIndex(tmp_path), "claude", "vanier") == []


def test_an_initial_stands_for_a_word_and_words_stand_for_themselves() -> None:
    assert holds("Thomas Edwin Lorne", ("t", "lorne"))
    assert holds("Joseph-Maurice Ravin", ("maurice", "ravin"))
    assert not holds("Edwin Lorne", ("t", "lorne"))
    assert not holds("Lornel", ("lorne",))
