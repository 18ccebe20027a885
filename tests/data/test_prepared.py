"""The view of prepared data opens what lies in the artifact, and says what is missing."""

import shutil
from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from components.data.prepared import PreparedData
from components.data.world.files import FACTS, WORLD_FOLDER
from tests.training.conftest import SENTENCES, prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData.open(prepare(tmp_path_factory.mktemp("prepared")).folder)


def test_it_opens_tokenizer_and_shards(prepared: PreparedData) -> None:
    assert prepared.tokenizer().vocab_size == prepared.shards().vocab_size == prepared.details["vocab_size"]
    assert set(prepared.shards().splits) == {"train", "validation", "test"}


def test_documents_come_back_as_text_in_the_order_asked_for(prepared: PreparedData) -> None:
    texts = list(prepared.texts("test", [3, 0, 3]))
    assert texts[0] == texts[2] != texts[1]
    assert all(sentence in " ".join(SENTENCES) for text in texts for sentence in text.split(". ")[:1])


def test_data_that_is_no_closed_world_has_no_facts(prepared: PreparedData, tmp_path: Path) -> None:
    assert (prepared.fact_table, prepared.world_documents, prepared.questions) == (None, None, None)
    copy = Path(shutil.copytree(prepared.folder, tmp_path / "copy"))
    world = copy / PreparedData.RAW / WORLD_FOLDER
    world.mkdir(parents=True)
    (world / FACTS).touch()
    opened = PreparedData.open(copy)
    assert opened.fact_table == world / FACTS
    assert opened.questions is None


def test_what_is_missing_is_named(prepared: PreparedData, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(prepared.folder, tmp_path / "copy"))
    shutil.rmtree(copy / PreparedData.SHARDS)
    (copy / PreparedData.TOKENIZER / "tokenizer.json").unlink()
    opened = PreparedData.open(copy)
    with pytest.raises(ArtifactError, match="has no 'shards'"):
        opened.shards()
    for open_it in (opened.tokenizer, opened.tokenizer_digest):
        with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
            open_it()
