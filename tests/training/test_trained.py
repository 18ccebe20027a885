"""The view of a trained model: its folder, its history, and how many tokens it has seen."""

from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from components.core.run import Run
from components.training.trained import TrainedModel, model_folder


def test_the_history_leaves_out_a_row_that_was_cut(tmp_path: Path) -> None:
    run = Run.local(tmp_path, "pretrain")
    (tmp_path / TrainedModel.HISTORY).write_text('{"step": 1, "loss": 5.0}\n{"step": 2, "lo')
    assert run.seal({}, view=TrainedModel).history() == [{"step": 1, "loss": 5.0}]


def test_tokens_before_count_as_seen(tmp_path: Path) -> None:
    plain = Run.local(tmp_path / "plain", "pretrain").seal({}, {"tokens": 1000}, view=TrainedModel)
    taught = Run.local(tmp_path / "taught", "delegate").seal(
        {}, {"tokens": 50, "tokens_before": 1000}, view=TrainedModel
    )
    assert (plain.tokens_seen, taught.tokens_seen) == (1000, 1050)


def test_an_older_artifact_has_its_tokens_among_its_metrics(tmp_path: Path) -> None:
    older = Run.local(tmp_path, "delegate").seal({"tokens": 50.0}, {"tokens_before": 1000}, view=TrainedModel)
    assert older.tokens_seen == 1050


def test_weights_that_are_missing_or_altered_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no 'model'"):
        Run.local(tmp_path / "empty", "pretrain").seal({}, view=TrainedModel).load()
    run = Run.local(tmp_path / "altered", "pretrain")
    weights = run.folder / TrainedModel.MODEL / "weights"
    weights.parent.mkdir()
    weights.write_bytes(b"12")
    artifact = run.seal({}, view=TrainedModel)
    weights.write_bytes(b"21")
    with pytest.raises(ArtifactError, match="model/weights was altered"):
        artifact.load()


def test_a_model_is_found_by_its_own_folder_or_by_its_artifact(tmp_path: Path) -> None:
    inside = tmp_path / TrainedModel.MODEL
    assert model_folder(tmp_path) == tmp_path
    inside.mkdir()
    assert model_folder(tmp_path) == model_folder(inside) == inside
