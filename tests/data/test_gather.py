import json
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.data.config import DataConfig
from components.data.gather import discard, gather
from components.data.reading import Reader
from components.data.sources import pydoc_topics
from components.data.world.config import WorldConfig

SMALL_WORLD = WorldConfig(entities=40)


def test_local_files_are_copied_in_the_order_of_the_sources(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    cfg = DataConfig(sources=[str(tmp_path / "c.md"), str(tmp_path / "*.txt")])
    files = gather(cfg, tmp_path / "raw")
    assert [file.path.read_text() for file in files] == ["c.md", "a.txt", "b.txt"]
    assert all(file.path.parent == tmp_path / "raw" for file in files)
    assert [Path(file.origin).name for file in files] == ["c.md", "a.txt", "b.txt"]


def test_files_of_the_same_name_do_not_meet(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    files = gather(DataConfig(sources=[str(tmp_path / "*" / "a.txt")]), tmp_path / "raw")
    assert [file.path.read_text() for file in files] == ["x", "y"]


def test_without_keeping_files_are_read_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    cfg = DataConfig(sources=[str(tmp_path / "a.txt"), "pydoc"], keep_sources=False)
    files = gather(cfg, tmp_path / "raw")
    assert files[0].path == tmp_path / "a.txt"
    discard(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []
    assert (tmp_path / "a.txt").exists()


def test_the_manual_gives_a_document_for_each_topic(tmp_path: Path) -> None:
    cfg = DataConfig(sources=["pydoc"], text_field="body")  # the field of the user's own files
    texts = [document.text for document in Reader(cfg).documents(gather(cfg, tmp_path))]
    assert texts == [text for _, text in sorted(pydoc_topics().items())]


def test_the_world_brings_its_facts_and_questions_and_survives_discarding(tmp_path: Path) -> None:
    cfg = DataConfig(sources=["pydoc", "world"], world=SMALL_WORLD, keep_sources=False)
    [_, world] = gather(cfg, tmp_path)
    assert world.path == tmp_path / "world" / "documents.jsonl"
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    for name in ("documents", "facts", "questions"):
        [first, *_] = (tmp_path / "world" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        assert json.loads(first)


def test_leftovers_of_an_interrupted_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "questions.jsonl").write_text("{}")
    (tmp_path / ".000-00000-a.txt.x1.part").write_text("half")
    (tmp_path / "005-b.jsonl").write_text("{}")
    gather(DataConfig(sources=["pydoc"]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["000-pydoc.jsonl"]


def test_progress_grows_to_one(tmp_path: Path) -> None:
    told: list[float] = []
    cfg = DataConfig(sources=["world", "pydoc"], world=SMALL_WORLD)
    gather(cfg, tmp_path, lambda fraction, message: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_source_that_vanished_since_the_fingerprint_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        gather(DataConfig(sources=[str(tmp_path / "gone.txt")]), tmp_path / "raw")
