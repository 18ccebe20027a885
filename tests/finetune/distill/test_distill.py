"""The stages ``teach`` and ``distill`` as a whole."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.finetune.distill.artifact import TEACHER_IDS, TEACHER_LOGPROBS, Teaching
from components.finetune.distill.config import DistillObjectiveConfig, DistillStageConfig, TeachConfig
from components.finetune.distill.objective import Distillation
from components.finetune.distill.teach import stage as teach
from components.finetune.distill.train import stage
from components.model.checkpoint import load_model
from components.training.loader import IGNORED, Batch, packed
from components.training.objectives.base import ForwardPass, Outputs, Ranks
from components.training.trained import TrainedModel
from tests.finetune.distill.conftest import TEACHER, TRAINER

STUDENT = TEACHER.model_copy(update={"name": "student", "width": 16, "hidden_width": 32})
WHERE = ForwardPass(0, 0, Ranks())
TOP = 8


def settings(model: TrainedModel, **changes: object) -> TeachConfig:
    values = {"teacher": str(model.folder), "top_k": TOP, "context_length": 32, "precision": "32-true"}
    return TeachConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def teaching(tmp_path_factory: pytest.TempPathFactory, prepared: PreparedData, teacher: TrainedModel) -> Teaching:
    return teach(Run.local(tmp_path_factory.mktemp("teaching"), "teach"), settings(teacher), prepared=prepared)


def test_the_columns_hold_what_the_teacher_expects_in_every_window(
    prepared: PreparedData, teacher: TrainedModel, teaching: Teaching
) -> None:
    shards = prepared.shards()
    for split in shards.splits.values():
        windows = list(range(-(-(split.n_tokens - 1) // 32)))
        batch = packed(split, windows, 32, shards.boundary_id, teaching.columns(shards))
        model = load_model(teacher.model_folder)
        with torch.no_grad():
            logits = model.logits(model(batch.tokens, batch.document_start))
        logits[..., teaching.call_id] = -torch.inf
        values, _ = logits.log_softmax(-1).topk(TOP)
        valid = batch.targets != IGNORED
        found = batch.columns[TEACHER_LOGPROBS].float()
        torch.testing.assert_close(found[valid], values[valid], rtol=2e-3, atol=2e-3)
        own = logits.log_softmax(-1).gather(-1, batch.columns[TEACHER_IDS].long())
        torch.testing.assert_close(own[valid], values[valid], rtol=2e-3, atol=2e-3)


@pytest.fixture
def batch(prepared: PreparedData, teaching: Teaching) -> Batch:
    shards = prepared.shards()
    return packed(shards.splits["train"], [0, 1], 32, shards.boundary_id, teaching.columns(shards))


def outputs_of(model: TrainedModel, batch: Batch) -> Outputs:
    network = load_model(model.model_folder)
    return Outputs(network(batch.tokens, batch.document_start).flatten(0, 1), network.output_weight)


def apart(batch: Batch, outputs: Outputs, teaching: Teaching, **changes: object) -> torch.Tensor:
    config = DistillObjectiveConfig.model_validate({"alpha": 1.0, **changes})
    return Distillation(config, teaching.call_id).losses(batch, outputs, WHERE).losses.detach()


@pytest.mark.parametrize("changes", [{}, {"divergence": "reverse"}, {"divergence": "js"}, {"temperature": 2.0}])
def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it(
    batch: Batch, teacher: TrainedModel, teaching: Teaching, changes: dict[str, object]
) -> None:
    found = apart(batch, outputs_of(teacher, batch), teaching, **changes)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=2e-3)


def test_without_the_teacher_it_is_the_cross_entropy(batch: Batch, teacher: TrainedModel, teaching: Teaching) -> None:
    outputs = outputs_of(teacher, batch)
    found = apart(batch, outputs, teaching, alpha=0.0)
    torch.testing.assert_close(found, outputs.token_stats(batch).nll_full.detach())


def test_only_sure_teachers_and_needy_students_are_heard(
    batch: Batch, teacher: TrainedModel, teaching: Teaching
) -> None:
    torch.manual_seed(0)
    outputs = Outputs(torch.randn(64, 32), outputs_of(teacher, batch).output_weight)
    every = apart(batch, outputs, teaching)
    held = batch.columns[TEACHER_LOGPROBS].float().exp().sum(-1).flatten()
    least = held.median().item()
    assert torch.equal(apart(batch, outputs, teaching, least_confidence=least) > 0, held >= least)
    needy = apart(batch, outputs, teaching, need=0.25)
    assert (needy > 0).sum() == 16
    assert needy[needy > 0].min() >= every[needy == 0].max()


def test_a_student_from_scratch_comes_closer_to_its_teacher(
    tmp_path: Path, prepared: PreparedData, teaching: Teaching
) -> None:
    config = DistillStageConfig(model=STUDENT, trainer=TRAINER)
    made = stage(Run.local(tmp_path / "student", "distill"), config, prepared=prepared, teaching=teaching)
    looks = [row["divergence"] for row in made.history() if "divergence" in row]
    assert looks[-1] < looks[0]
    assert made.metrics["validation_bits_per_byte"] > 0
    assert load_model(made.model_folder).config.width == 16


def test_a_base_goes_on(tmp_path: Path, prepared: PreparedData, teacher: TrainedModel, teaching: Teaching) -> None:
    config = DistillStageConfig(model=STUDENT, trainer=TRAINER.model_copy(update={"max_steps": 2}))
    run = Run.local(tmp_path / "student", "distill")
    made = stage(run, config, prepared=prepared, teaching=teaching, base=teacher)
    assert load_model(made.model_folder).config.width == TEACHER.width
    assert made.tokens_seen == (20 + 2) * 8 * 32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": ""}, "names no model"),
        ({"top_k": 320}, "top_k=320 leaves no rest of a vocabulary of 320 tokens"),
        ({"context_length": 64}, "reads 32 tokens at most"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, prepared: PreparedData, teacher: TrainedModel, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        teach(Run.local(tmp_path / "teaching"), settings(teacher, **changes), prepared=prepared)


def test_a_teacher_with_another_vocabulary_is_refused(
    tmp_path: Path, prepared: PreparedData, teacher: TrainedModel
) -> None:
    shutil.copytree(teacher.folder, tmp_path / "teacher")
    tokenizer = tmp_path / "teacher" / TrainedModel.MODEL / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    other = TrainedModel.open(tmp_path / "teacher")
    with pytest.raises(InputError, match="another tokenizer than the training data"):
        teach(Run.local(tmp_path / "teaching"), settings(other), prepared=prepared)


def test_windows_of_another_length_are_refused(tmp_path: Path, prepared: PreparedData, teaching: Teaching) -> None:
    config = DistillStageConfig(model=STUDENT.model_copy(update={"context_length": 16}), trainer=TRAINER)
    with pytest.raises(ArtifactError, match="windows of 32 tokens, the student reads 16"):
        stage(Run.local(tmp_path / "student"), config, prepared=prepared, teaching=teaching)


def test_the_share_that_is_kept_is_told(teaching: Teaching) -> None:
    assert 0.3 < teaching.metrics["held"] < 1.0
    assert np.isfinite(teaching.metrics["seconds"])
