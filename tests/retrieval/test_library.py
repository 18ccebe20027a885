"""What the helper can look up: the data with all its splits, and sources that the model never saw."""

import json
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.data.prepared import PreparedData
from components.retrieval.library import corpus_name, documents_of, library_documents
from tests.cascade.helpers.conftest import prepared

__all__ = ["prepared"]  # a fixture


def test_of_a_large_corpus_a_fixed_part_is_indexed_and_said(
    prepared: PreparedData, caplog: pytest.LogCaptureFixture
) -> None:
    everything = list(documents_of(prepared))
    assert not caplog.records
    part = list(documents_of(prepared, most_bytes=20_000))
    assert part == list(documents_of(prepared, most_bytes=20_000))
    assert set(part) < set(everything)
    splits = len(prepared.shards().splits)
    assert 10_000 < sum(len(text.encode()) for text in part) <= splits * 20_000
    assert "corpus_megabytes" in caplog.text
    assert len(list(documents_of(prepared, most_bytes=1))) == splits


def test_held_out_documents_can_be_looked_up(prepared: PreparedData) -> None:
    found = list(documents_of(prepared))
    assert len(found) == sum(split.n_documents for split in prepared.shards().splits.values())
    assert set(prepared.texts("test", [0])) <= set(found)


def test_a_library_is_any_sources_and_is_cut_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    articles = tmp_path / "articles.jsonl"
    articles.write_text("".join(json.dumps({"text": f"Article {number}."}) + "\n" for number in range(3)))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("A note.")
    library = [str(articles), str(tmp_path / "notes" / "*.txt")]
    with library_documents(library, tmp_path, 1000) as texts:
        assert list(texts) == ["Article 0.", "Article 1.", "Article 2.", "A note."]
    assert not caplog.records
    with library_documents(library, tmp_path, 20) as texts:
        assert list(texts) == ["Article 0.", "Article 1."]
    assert "corpus_megabytes" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["articles.jsonl", "notes"]
    with library_documents([], tmp_path, 1000) as texts:
        assert list(texts) == []


def test_another_library_is_another_corpus(prepared: PreparedData, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("one")
    names = {corpus_name(prepared, [], 100), corpus_name(prepared, [str(note)], 100)}
    note.write_text("two")
    names.add(corpus_name(prepared, [str(note)], 100))
    assert len(names) == 3
    with pytest.raises(InputError, match=r"absent\.txt"):
        corpus_name(prepared, [str(tmp_path / "absent.txt")], 100)
