"""The index in its folder: which documents it takes, what is refused."""

from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from components.retrieval.index import PassageIndex, build_index

DOCUMENTS = [
    "Ada Quill was born in Brackwater in 1871. " + "She drew maps of the coast. " * 40 + "She died in Orvik.",
    "Bert Oskel was born in Hjelmby in 1902.",
]


def test_a_passage_comes_with_the_beginning_of_its_document(tmp_path: Path) -> None:
    record = build_index(DOCUMENTS, tmp_path, "corpus 1")
    index = PassageIndex(tmp_path)
    assert index.record == record
    assert (record.documents, record.corpus) == (2, "corpus 1")
    assert record.passages > 2
    (passage,) = index.best(["orvik"], 5)
    assert passage.title.startswith("Ada Quill was born")
    assert passage.text.endswith("She died in Orvik.")
    assert not passage.begins_document
    assert any(each.begins_document for each in index.best(["maps"], 5))
    assert index.share("bert") == 1 / record.passages


def test_a_missing_unfinished_or_damaged_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="build_index"):
        PassageIndex(tmp_path)
    build_index(DOCUMENTS, tmp_path / "a")
    (tmp_path / "a" / "passages.bin").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="damaged"):
        PassageIndex(tmp_path / "a")
    build_index(DOCUMENTS, tmp_path / "a")  # building again repairs it
    PassageIndex(tmp_path / "a")
    (tmp_path / "a" / "bm25" / "params.index.json").unlink()
    with pytest.raises(ArtifactError, match="damaged"):
        PassageIndex(tmp_path / "a")
    (tmp_path / "a" / "index.json").write_text("{}")
    with pytest.raises(ArtifactError, match="build it again"):
        PassageIndex(tmp_path / "a")
    with pytest.raises(ArtifactError, match="no words"):
        build_index(["", "..."], tmp_path / "b")
