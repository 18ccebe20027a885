"""The pipeline that annotates decides the key of the labels."""

from pathlib import Path

from components.core.inputs import folder_digest
from components.labelling.config import LabelConfig
from components.labelling.fingerprint import pipeline_fingerprint


def test_a_pipeline_trained_again_under_the_same_path_is_another_one(tmp_path: Path) -> None:
    cfg = LabelConfig(pipeline=str(tmp_path))
    (tmp_path / "model").write_bytes(b"one")
    before = pipeline_fingerprint(cfg, ["a.jsonl"])
    (tmp_path / "model").write_bytes(b"two")
    assert pipeline_fingerprint(cfg, ["a.jsonl"]) != before
    (tmp_path / "model").write_bytes(b"one")
    assert pipeline_fingerprint(cfg, ["a.jsonl"]) == before == {"pipeline": folder_digest(tmp_path)}


def test_a_package_counts_by_its_version_and_a_missing_one_is_left_to_the_stage() -> None:
    assert pipeline_fingerprint(LabelConfig(pipeline="numpy"), ["a.jsonl"])["pipeline"].startswith("2.")
    assert pipeline_fingerprint(LabelConfig(pipeline="en_core_web_none"), ["a.jsonl"]) == {}


def test_annotators_that_read_no_pipeline_do_not_depend_on_one(tmp_path: Path) -> None:
    assert pipeline_fingerprint(LabelConfig(annotator="capitals", pipeline=str(tmp_path)), ["a.jsonl"]) == {}
