"""The stage ``prepare`` with the tokenizer of a model that was taken in."""

from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.config import DataConfig
from components.data.model_tokenizer import ModelWithTokenizer
from components.data.prepare import stage
from components.data.prepared import PreparedData
from tests.data.conftest import prose, write_jsonl
from tests.derive.conftest import Derive
from tests.hugging_face_folders import write_folder


def _prepare(folder: Path, base: Path, texts: list[str]) -> PreparedData:
    folder.mkdir()
    config = DataConfig(
        sources=[str(write_jsonl(folder / "a.jsonl", texts))], validation_fraction=0.2, test_fraction=0.2
    )
    return stage(Run.local(folder / "run"), config, base=ModelWithTokenizer.open(base))


def test_the_shards_have_the_tokens_of_the_model_and_the_texts_come_back(tmp_path: Path, derive: Derive) -> None:
    model = derive(write_folder(tmp_path / "given"))
    texts = [*prose(40, words=12), "A sign ▁ that SentencePiece takes for a space. Łódź, 北京市\n"]
    prepared = _prepare(tmp_path / "prepared", model.folder, texts)
    assert prepared.details["vocab_size"] == prepared.shards().vocab_size == model.details["vocab_size"]
    assert prepared.shards().boundary_id == prepared.tokenizer().end_of_text_id == 2
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (prepared.tokenizer_folder / name).read_bytes() == (model.model_folder / name).read_bytes()
    back = [
        text
        for name, split in prepared.shards().splits.items()
        for text in prepared.texts(name, range(split.n_documents))
    ]
    assert sorted(back) == sorted(text.replace("▁", " ") for text in texts)


def test_an_altered_tokenizer_is_refused(tmp_path: Path, derive: Derive) -> None:
    model = derive(write_folder(tmp_path / "given"))
    (model.model_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json has 2 bytes"):
        _prepare(tmp_path / "prepared", model.folder, prose(40, words=12))
