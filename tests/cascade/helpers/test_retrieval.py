"""What follows the best matching place of the corpus, if it is about the same subject."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.cascade.helpers.base import Reply
from components.cascade.helpers.retrieval import RetrievalHelper
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.retrieval.index import build_index
from components.retrieval.library import documents_of
from tests.cascade.helpers.conftest import call

DOCUMENTS = [
    "Ada Quill was born in Brackwater in 1871. She designed the lighthouse of the harbour, and died in Łódź in 1932.",
    "Bert Oskel was born in Hjelmby in 1902. He taught at Vesper Academy for thirty years, and kept bees there.",
    "Cora Lindqvist was a painter from Marnholm. "
    + "She painted boats and bridges all her life. " * 40
    + "She died in Orvik.",
    "The weather was calm. The harbour was empty. Nobody was there, and nothing happened for a very long time.",
    *(f"Person{number} was somebody who lived somewhere and did something at some time." for number in range(20)),
]


@pytest.fixture(scope="module")
def helper(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> RetrievalHelper:
    folder = tmp_path_factory.mktemp("index")
    build_index(DOCUMENTS, folder)
    return RetrievalHelper(folder, tokenizer)


def said(helper: RetrievalHelper, *arguments: object) -> str:
    (reply,) = helper.answer([call(*arguments)])  # type: ignore[arg-type]
    assert isinstance(reply, Reply)
    return reply.text


@pytest.mark.parametrize(
    ("text", "unit", "answer"),
    [
        ("Ada Quill was born in", "word", " Brackwater"),
        ("Ada Quill was born in ", "word", "Brackwater"),
        ("Ada Quill was born in Brack", "word", "water"),
        ("Bert Oskel was born in", "word", " Hjelmby"),
        ("Ada Quill was an engineer. She loved the sea, and died in", "entity", " Łódź"),
        ("Bert Oskel liked schools. He taught at", "entity", " Vesper Academy"),
        ("Bert Oskel liked schools. He taught at Vesper", "entity", " Academy"),
        ("Bert Oskel was born in Hjelmby in", "entity", " 1902"),
        ("Cora Lindqvist was a painter. After a long life, she died in", "word", " Orvik"),  # far from her name
    ],
)
def test_it_finds_what_the_corpus_says_of_the_subject(
    helper: RetrievalHelper, text: str, unit: str, answer: str
) -> None:
    assert said(helper, text, unit) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "Dora Mansk was born in",
        "Ada Quill bought a",
        "Quark",
        "Ada",
        "🙂 🙂",
        "was born in",
        "Ada Quill was born in X",
    ],
)
def test_where_nothing_matches_well_it_knows_nothing(helper: RetrievalHelper, text: str) -> None:
    assert said(helper, text) == ""


def test_text_without_a_name_needs_more_agreement(helper: RetrievalHelper) -> None:
    assert said(helper, "and nothing happened for a") == " very"
    assert said(helper, "happened for a") == ""


def test_tokens_are_the_tokenizers(helper: RetrievalHelper, tokenizer: TextTokenizer) -> None:
    text = "Ada Quill was born in"
    first = tokenizer.encode(" Brackwater")[0]
    assert said(helper, text, "token") == tokenizer.decode([first])
    assert said(helper, "Ada Quill was an engineer. She loved the sea, and died in", "token").strip("\ufffd") != ""


def test_it_reads_the_value_for_a_sentence_that_no_document_has(helper: RetrievalHelper) -> None:
    assert said(helper, "Ada Quill came into the world and was born in the year", "word") == " 1871"
    assert said(helper, "Bert Oskel was an astronaut. He was born in the year ", "word") == "1902"
    assert said(helper, "Bert Oskel died in the year", "word") == ""


def test_numerals_and_particles_are_part_of_a_name_and_initials_stand_for_one(
    tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    kings = [
        f"Osvald {numeral} ({1700 + 30 * at} – {1760 + 30 * at}) was king of Norland. He built a tower."
        for at, numeral in enumerate(["I", "II", "III", "IV", "V"])
    ]
    others = [
        "Hamid al-Nouri (born 1977) is a pilot. He lives by the sea.",
        "Hamid Basri (born 1950) is a baker. He lives by the sea.",
        "Edwin Rolf Lorne (16 August 1888 – 1935) was a soldier. He wrote letters.",
    ]
    build_index([*kings, *others, *DOCUMENTS], tmp_path)
    found = RetrievalHelper(tmp_path, tokenizer)
    for at, numeral in enumerate(["I", "II", "III", "IV", "V"]):
        assert said(found, f"Osvald {numeral} of Norland was born in the year", "word") == f" {1700 + 30 * at}"
    assert said(found, "Hamid al-Nouri was born in the year", "word") == " 1977"
    assert said(found, "E. R. Lorne was born in the year", "word") == " 1888"


def test_a_hidden_document_is_not_looked_up(helper: RetrievalHelper) -> None:
    (open_reply, hidden_reply) = helper.answer(
        [call("Ada Quill was born in", "word"), replace(call("Ada Quill was born in", "word"), hidden=DOCUMENTS[0])]
    )
    assert isinstance(open_reply, Reply)
    assert isinstance(hidden_reply, Reply)
    assert (open_reply.text, hidden_reply.text) == (" Brackwater", "")


def test_it_knows_the_documents_of_a_prepare_artifact(
    prepared: PreparedData, tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    documents = list(documents_of(prepared))
    assert prepared.world_documents is not None
    raw = [json.loads(line) for line in prepared.world_documents.read_text().splitlines()]
    assert set(documents) == {row["text"] for row in raw}
    record = build_index(iter(documents), tmp_path / "index", "corpus 1")
    assert (record.documents, record.corpus) == (len(documents), "corpus 1")
    helper = RetrievalHelper(tmp_path / "index", tokenizer)
    right = asked = 0
    for row in raw[::3]:
        if row["text"] in documents:
            for start, end, _ in row["facts"][3:6]:
                asked += 1
                right += said(helper, row["text"][:start], "entity").startswith(row["text"][start:end].split()[0])
    assert asked > 80
    assert right / asked > 0.9  # its own text; years and names that many documents share may be found elsewhere
    assert not [path for path in (tmp_path / "index").rglob("*") if path.suffix in (".pkl", ".pickle")]
