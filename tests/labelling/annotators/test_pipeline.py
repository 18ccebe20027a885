"""The loaded pipeline: what is refused, how long texts and other languages are met. Pipelines here need no training."""

import sys
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import InputError
from components.labelling.annotators.pipeline import Pipeline, SpacyAnnotator
from components.labelling.annotators.rules import ParseRules
from tests.conftest import SHARED_DATA

spacy = pytest.importorskip("spacy")

TRAINED = SHARED_DATA / "spacy" / "en_gum_sm"
ENGLISH = (
    "He was then one of the most able men of his time and had all that he could have asked of them in that place. "
)
GERMAN = (
    "Die Stadt liegt am Fluss und wurde von einem Herzog erbaut, dessen Familie dort "
    "viele Jahre lang in großem Frieden herrschte. "
)


def save(folder: Path, *components: str, language: str = "en") -> str:
    """A pipeline of rules: entities and parts of speech by patterns."""
    nlp: Any = spacy.blank(language)
    if "entities" in components:
        nlp.add_pipe("entity_ruler").add_patterns(
            [{"label": "GPE", "pattern": "Łódź"}, {"label": "PERSON", "pattern": "Ada Lovelace"}]
        )
    if "flavours" in components:
        nlp.add_pipe("entity_ruler").add_patterns([{"label": "FLAVOUR", "pattern": "Ada"}])
    if "pos" in components:
        ruler = nlp.add_pipe("attribute_ruler")
        ruler.add([[{"IS_TITLE": True}]], {"POS": "PROPN", "TAG": "NNP"})
        ruler.add([[{"IS_DIGIT": True}]], {"POS": "NUM", "TAG": "CD"})
        ruler.add([[{"IS_LOWER": True}]], {"POS": "X"})
    nlp.to_disk(folder)
    return str(folder)


def words(annotator: SpacyAnnotator, text: str) -> list[str]:
    (annotation,) = annotator.annotate([text])
    assert annotation.annotator == "spacy"
    return [text[start:end] for start, end in annotation.words.tolist()]


def opened(name: str, rules: ParseRules) -> SpacyAnnotator:
    return SpacyAnnotator(Pipeline(name, [rules]), rules)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("ner_only", ["Ada", "Lovelace", "Łódź"]),
        ("pos_only", ["Ada", "Lovelace", "Łódź", "1815"]),
        ("ner+pos", ["Ada", "Lovelace", "Łódź", "1815"]),
    ],
)
def test_words_come_back_by_their_offsets(tmp_path: Path, rules: ParseRules, expected: list[str]) -> None:
    annotator = opened(save(tmp_path / "p", "entities", "pos"), rules)
    assert words(annotator, "👩 saw Ada Lovelace\n\n in Łódź (1815).") == expected
    assert words(annotator, "") == []


def test_long_documents_are_parsed_in_pieces(tmp_path: Path) -> None:
    text = "they went on and on. " * 5_000 + "\n\nLater Łódź in 1815. " + "they went on and on " * 8_000 + "to Łódź"
    assert len(text) > 250_000
    annotator = opened(save(tmp_path / "p", "entities", "pos"), "ner+pos")
    assert words(annotator, text) == ["Later", "Łódź", "1815", "Łódź"]


def test_text_in_another_language_is_noticed(tmp_path: Path) -> None:
    annotator = opened(save(tmp_path / "p", "entities", "pos"), "ner+pos")
    familiar = [each.familiar for each in annotator.annotate([ENGLISH, GERMAN, "too short to tell", GERMAN * 2])]
    assert familiar == [True, False, None, False]
    german = opened(save(tmp_path / "de", "entities", "pos", language="de"), "ner+pos")
    assert [each.familiar for each in german.annotate([ENGLISH, GERMAN])] == [False, True]


def test_what_a_pipeline_lacks_is_said(tmp_path: Path) -> None:
    name = save(tmp_path / "ner", "entities")
    with pytest.raises(InputError, match=r"label\.rules=pos_only: it sets no parts of speech.*It has entity_ruler"):
        opened(name, "pos_only")
    name = save(tmp_path / "pos", "pos")
    with pytest.raises(InputError, match="it sets no named entities"):
        opened(name, "ner+pos")
    name = save(tmp_path / "both", "entities", "pos")
    with pytest.raises(InputError, match="it sets no dependencies"):
        opened(name, "ner+pos+attr")
    name = save(tmp_path / "flavours", "flavours", "pos")
    with pytest.raises(InputError, match=r"of its entity types \(FLAVOUR\) the rules know none"):
        opened(name, "ner+pos")
    assert Pipeline(name, ["pos_only"]).lacks("pos_only") is None


def test_pipelines_that_are_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no spaCy pipeline 'en_no_such'.*spacy download en_no_such"):
        Pipeline("en_no_such", ["ner+pos"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty' cannot be loaded"):
        Pipeline(str(tmp_path / "empty"), ["ner+pos"])
    with pytest.raises(InputError, match=r"needs label\.pipeline"):
        Pipeline("", ["ner+pos"])


def test_a_missing_spacy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError, match=r"pip install spacy"):
        Pipeline("en_core_web_sm", ["ner+pos"])


def test_a_pipeline_is_known_by_its_files(tmp_path: Path) -> None:
    one = Pipeline(save(tmp_path / "one", "pos"), ["pos_only"]).record
    other = Pipeline(save(tmp_path / "other", "pos", "entities"), ["pos_only"]).record
    assert one.name == other.name == "en_pipeline 0.0.0"
    assert one.digest != other.digest
    assert one == Pipeline(str(tmp_path / "one"), ["pos_only"]).record


@pytest.mark.skipif(not TRAINED.exists(), reason="../shared/data/spacy is not here")
def test_a_trained_pipeline_finds_names_and_dates() -> None:
    pipeline = Pipeline(str(TRAINED), ["ner+pos"])
    assert "parser" not in pipeline.nlp.pipe_names, "nothing reads its parses under these rules"
    text = "Wayne Gretzky was born in Brantford on January 26, 1961, and he played for four teams."
    assert words(SpacyAnnotator(pipeline, "ner+pos"), text) == [
        *("Wayne", "Gretzky", "Brantford", "January", "26", "1961", "four")
    ]
    with_attributes = words(opened(str(TRAINED), "ner+pos+attr"), "He was a painter and served as mayor.")
    assert with_attributes == ["painter", "mayor"]
