"""The stages ``prefer`` and ``assess-preference`` as a whole."""

import math
from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.finetune.preference.artifact import Pairs, PreferenceAssessment, References
from components.finetune.preference.assess import stage as assess
from components.finetune.preference.config import AssessPreferenceConfig, ObjectiveConfig, PreferConfig
from components.finetune.preference.train import stage
from components.training.config import TrainerConfig
from components.training.trained import TrainedModel
from tests.finetune.preference.conftest import MODEL
from tests.trained import untrained

TRAINER = TrainerConfig(
    max_steps=30,
    batch_size=4,
    micro_batch_size=2,
    optimizer="adamw",
    learning_rate=1e-2,
    precision="32-true",
    threads=1,
    log_every_steps=10,
    validate_every_steps=10,
    validation_batches=4,
)


@pytest.fixture(scope="module")
def preferring(
    tmp_path_factory: pytest.TempPathFactory,
    prepared: PreparedData,
    pairs: Pairs,
    reference: References,
    base: TrainedModel,
) -> TrainedModel:
    config = PreferConfig(trainer=TRAINER, objective=ObjectiveConfig(beta=0.5))
    run = Run.local(tmp_path_factory.mktemp("prefer"), "prefer")
    return stage(run, config, prepared=prepared, pairs=pairs, reference=reference, base=base)


def test_it_begins_at_the_base_and_learns_the_pairs(preferring: TrainedModel) -> None:
    rows = [row["loss"] for row in preferring.history() if "loss" in row]
    assert rows[0] < math.log(2) + 0.2
    assert rows[-1] < 0.7 * math.log(2)
    assert {"preference_accuracy", "reward_accuracy", "gain"} <= preferring.metrics.keys()
    assert "validation_bits_per_byte" not in preferring.metrics  # the loss is no likelihood of text


def test_the_report_sets_model_base_and_length_side_by_side(
    tmp_path: Path,
    prepared: PreparedData,
    pairs: Pairs,
    reference: References,
    base: TrainedModel,
    preferring: TrainedModel,
) -> None:
    config = AssessPreferenceConfig(precision="32-true", max_documents=2, resamples=100)
    run = Run.local(tmp_path / "assessed", "assess-preference")
    found = assess(run, config, model=preferring, base=base, pairs=pairs, reference=reference, prepared=prepared)
    records = pairs.records("test")
    longer = sum(record.chosen_is_longer for record in records) / len(records)
    assert found.metrics["longer_wins"] == pytest.approx(longer)
    assert found.metrics["over_longer_wins"] == pytest.approx(found.metrics["preference_accuracy"] - longer)
    assert found.metrics["bits_per_byte_change"] != 0
    assert len((found.folder / PreferenceAssessment.PREFERENCES).read_text().splitlines()) == len(records)
    page = (found.folder / PreferenceAssessment.PAGE).read_text()
    for said in ("the longer answer wins", "its base", "bits per byte"):
        assert said in page


def test_pairs_for_another_model_are_refused(
    tmp_path: Path, prepared: PreparedData, pairs: Pairs, reference: References
) -> None:
    shorter = untrained(tmp_path / "base", prepared, MODEL.model_copy(update={"context_length": 128}))
    with pytest.raises(ArtifactError, match="were made for another model"):
        stage(
            Run.local(tmp_path / "prefer"),
            PreferConfig(trainer=TRAINER),
            prepared=prepared,
            pairs=pairs,
            reference=reference,
            base=shorter,
        )
