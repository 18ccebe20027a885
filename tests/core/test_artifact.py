"""An artifact is sealed last, and notices every change to its files."""

from pathlib import Path

import pytest

from components.core.artifact import LOCAL, RECORD, Artifact
from components.core.atomic import replacing
from components.core.errors import ArtifactError
from components.core.run import Run


class Shards(Artifact):
    stages = ("prepare", "repack")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    run = Run.local(tmp_path / "prepare")
    (run.folder / "shards").mkdir()
    (run.folder / "shards" / "train.bin").write_bytes(b"0123456789")
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last.ckpt").write_bytes(b"not part of the result")
    return run.seal(metrics={"tokens": 5.0}, details={"splits": ["train"]})


def test_it_reads_back_as_it_was_sealed(artifact: Artifact) -> None:
    again = Artifact.open(artifact.folder)
    assert again.record == artifact.record
    assert list(again.record.files) == ["shards/train.bin"]
    assert again.verify() is again


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"01234"), "has 5 bytes, 10 were recorded"),
        (lambda path: path.write_bytes(b"012345678X"), "was altered"),
    ],
)
def test_damage_is_named(artifact: Artifact, damage: object, words: str) -> None:
    assert callable(damage)
    damage(artifact.folder / "shards" / "train.bin")
    with pytest.raises(ArtifactError, match=words) as caught:
        Artifact.open(artifact.folder).verify()
    assert "shards/train.bin" in str(caught.value)


def test_an_unfinished_folder_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a finished artifact"):
        Artifact.open(tmp_path)


def test_a_record_that_cannot_be_read_is_named(artifact: Artifact) -> None:
    (artifact.folder / RECORD).write_text('{"identity": ')
    with pytest.raises(ArtifactError, match="cannot be read"):
        Artifact.open(artifact.folder)


def test_a_file_that_is_asked_for_but_not_there_is_named(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="no 'tokenizer'"):
        artifact.path("tokenizer")


def test_a_view_opens_only_what_its_stages_made(tmp_path: Path) -> None:
    for stage in ("prepare", "repack", LOCAL):
        sealed = Run.local(tmp_path / stage, stage).seal({}, view=Shards)
        assert (type(sealed), type(Shards.open(sealed.folder).verify())) == (Shards, Shards)
    Run.local(tmp_path / "label", "label").seal({})
    with pytest.raises(ArtifactError, match=r"stage 'label' .* as Shards: give an artifact of 'prepare' or 'repack'"):
        Shards.open(tmp_path / "label")


def test_the_rows_for_people_are_kept_in_their_order(tmp_path: Path) -> None:
    rows = [("Tokens", "1.2 M"), ("Documents", "300")]
    assert Run.local(tmp_path).seal({}, rows=rows).record.rows == rows
    assert Artifact.open(tmp_path).record.rows == rows


def test_what_the_flow_is_writing_while_a_stage_seals_is_no_part_of_the_artifact(tmp_path: Path) -> None:
    run = Run.local(tmp_path)
    (tmp_path / "result.txt").write_text("done")
    with replacing(tmp_path / "tracking.json") as half:
        half.write_text("{")
        artifact = run.seal({})
    assert list(artifact.record.files) == ["result.txt"]
    assert artifact.fault() is None
