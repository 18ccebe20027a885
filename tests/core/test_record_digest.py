"""A record that was edited is noticed, by its digest or because it answers another question."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.core.artifact import RECORD, Artifact
from components.core.errors import ArtifactError
from components.core.identity import Identity, RecordedIdentity
from components.core.record_digest import (
    RECORD_DIGEST,
    identity_fault,
    intact,
    keep_record_digest,
    record_fault,
)
from components.core.run import Run

ASKED = Identity.from_parts(
    "pretrain",
    config={"model": {"layers": 2}, "clip": 0.0},
    neutral=[("clip",)],
    inputs={"prepared": "c" * 32},
    code={"components.pretrain.stage": "c0de"},
    environment={"torch": "2.13.0"},
)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    run = Run.recorded(tmp_path / "pretrain", ASKED)
    (run.folder / "weights.bin").write_bytes(b"0123")
    sealed = run.seal({"loss": 3.5, "seconds": 10.0}, {"parameters": 1000}, rows=[("loss", "3.5")])
    keep_record_digest(sealed)
    return sealed


def edited(artifact: Artifact, change: Callable[[dict[str, Any]], object]) -> Artifact:
    record = json.loads((artifact.folder / RECORD).read_text())
    change(record)
    (artifact.folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return Artifact.open(artifact.folder)


def test_what_was_sealed_is_intact(artifact: Artifact) -> None:
    again = Artifact.open(artifact.folder)
    assert record_fault(again) is None
    assert identity_fault(again.record.identity, ASKED) is None
    assert intact(again) is again
    assert list(again.record.files) == ["weights.bin"]


def test_the_digest_is_what_common_tools_read(artifact: Artifact) -> None:
    answer = subprocess.run(["sha256sum", "-c", RECORD_DIGEST], cwd=artifact.folder, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, f"{RECORD}: OK\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["metrics"].update(loss=0.5),
        lambda record: record["details"].update(parameters=1),
        lambda record: record["rows"][0].__setitem__(1, "0.5"),
        lambda record: record.update(created="2020-01-01T00:00:00Z"),
        lambda record: record["files"].clear(),
        lambda record: record["identity"]["config"]["model"].update(layers=24),
        lambda record: record["identity"].update(key="0" * 32),
        lambda record: record.update(accepted=[]) or record["metrics"].pop("seconds"),
    ],
    ids=["metric", "detail", "row", "time", "files", "config", "key", "missing metric"],
)
def test_an_edit_anywhere_in_the_record_is_noticed(
    artifact: Artifact, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(ArtifactError, match=rf"{RECORD} was altered \(its digest differs from {RECORD_DIGEST}\)"):
        intact(edited(artifact, change))


@pytest.mark.parametrize("digest", ["", "x", f"{'0' * 64}  {RECORD}\n"])
def test_an_edited_digest_is_noticed(artifact: Artifact, digest: str) -> None:
    (artifact.folder / RECORD_DIGEST).write_text(digest)
    assert record_fault(artifact)


def test_an_artifact_of_before_is_used_as_it_is_and_held_to_that_from_then_on(artifact: Artifact) -> None:
    (artifact.folder / RECORD_DIGEST).unlink()
    assert intact(artifact) is artifact
    keep_record_digest(artifact)
    changed = edited(artifact, lambda record: record["metrics"].update(loss=0.5))
    keep_record_digest(changed)
    assert record_fault(changed), "the first digest stays"
    keep_record_digest(changed, again=True)
    assert record_fault(changed) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {"model": {"layers": 24}, "clip": 0.0}}, "model.layers 24 -> 2"),
        ({"inputs": {"prepared": "d" * 32}}, "input changed: prepared"),
        ({"code": {"components.pretrain.stage": "beef"}}, "code changed: components.pretrain.stage"),
        ({"environment": {}}, "package changed: torch not used -> 2.13.0"),
        ({"key": "0" * 32}, "its key is 0000"),
        ({"stage": "delegate"}, "is not the record of pretrain"),
        ({"config": {}}, "is not the record of pretrain"),
    ],
    ids=["config", "inputs", "code", "environment", "key", "stage", "nothing"],
)
def test_a_record_of_another_identity_is_named_also_without_a_digest(change: dict[str, Any], words: str) -> None:
    fault = identity_fault(RecordedIdentity(**{**ASKED.model_dump(), **change}), ASKED)
    assert fault is not None
    assert words in fault
