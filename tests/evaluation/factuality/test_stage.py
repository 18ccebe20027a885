"""From nothing to a report on a tiny closed world: prepare, pretrain, label, delegate, calibrate, assess, study."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from components.cascade.calibration import Calibration
from components.cascade.config import CascadeConfig
from components.core.errors import ArtifactError
from components.core.identity import Identity
from components.core.reachability import reach
from components.core.run import Run
from components.data.config import DataConfig
from components.data.prepare import stage as prepare
from components.data.prepared import PreparedData
from components.data.world.config import WorldConfig
from components.delegation.calibrate import stage as calibrate
from components.delegation.config import CalibrateConfig, DelegateConfig, DelegationConfig
from components.delegation.train import stage as delegate
from components.evaluation.config import BootstrapConfig, CascadeAssessConfig, FactsConfig
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.evaluation.factuality.results import CascadeResults
from components.evaluation.factuality.stage import stage
from components.evaluation.factuality.study import stage as study
from components.labelling.artifact import Labels
from components.labelling.config import LabelConfig
from components.labelling.stage import stage as label
from components.model import checkpoint
from components.model.config import ModelConfig
from components.pretrain import stage as pretrain
from components.training.config import PretrainConfig, TrainerConfig
from components.training.trained import TrainedModel
from tests.core.executed import executed, not_counted
from tests.core.stages import STAGES

pytestmark = pytest.mark.usefixtures("quick_peak")

Result = TypeVar("Result")

MODEL = ModelConfig(name="tiny", layers=1, width=48, hidden_width=96, heads=4, kv_heads=2, context_length=96)
TRAINER = TrainerConfig(
    max_steps=30, batch_size=8, micro_batch_size=8, learning_rate=1e-2, precision="32-true", threads=1, device="cpu",
    validate_every_steps=30, validation_batches=2, checkpoint_every_steps=30, seed=3,
)  # fmt: skip
DELEGATE = DelegateConfig(
    model=MODEL, trainer=TRAINER, delegation=DelegationConfig(selection="lacy", max_steps=30, learning_rate=1e-2)
)
CASCADE = CascadeAssessConfig(
    facts=FactsConfig(
        budgets=[0.0, 0.1, 0.5, 1.0], max_tokens=3000, biographies=4, biography_tokens=24, resamples=200, device="cpu",
        precision="32-true",
    ),
    cascade=CascadeConfig(budget=0.15),
)  # fmt: skip


class Stages(NamedTuple):
    prepared: PreparedData
    pretrained: TrainedModel
    labels: Labels
    delegated: TrainedModel
    calibration: Calibration
    cascade: CascadeAssessment

    def measured(self) -> dict[str, Any]:
        """What the stage `cascade` measures, without the plain model."""
        return {name: getattr(self, name) for name in ("delegated", "calibration", "prepared", "labels")}


def run(folder: Path, name: str, config: object = None) -> Run:
    """A run that knows the configuration it was started with, as the flow's runs do."""
    recorded = config.model_dump(mode="json") if hasattr(config, "model_dump") else {}
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, Identity(stage=name, key="0" * 32, config=recorded, inputs={}, code={}, environment={}))


@pytest.fixture(scope="module")
def ran() -> dict[str, set[str]]:
    """The functions that each stage executed; filled by ``stages``."""
    return {}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, ran: dict[str, set[str]]) -> Stages:
    folder = tmp_path_factory.mktemp("stages")

    def watched(name: str, call: Callable[[], Result]) -> Result:
        result, ran[name] = executed(call)
        return result

    data = DataConfig(vocab_size=512, world=WorldConfig(entities=40, documents_per_entity=3, questions=20),
                      validation_fraction=0.15, test_fraction=0.15)  # fmt: skip
    prepared = watched("prepare", lambda: prepare(run(folder / "prepare", "prepare"), data))
    training = PretrainConfig(model=MODEL, trainer=TRAINER)
    pretrained = watched(
        "pretrain", lambda: pretrain(run(folder / "pretrain", "pretrain", training), training, prepared=prepared)
    )
    labelling = LabelConfig(processes=1, agreement_documents=5)
    labels = watched("label", lambda: label(run(folder / "label", "label"), labelling, prepared=prepared))
    delegated = watched(
        "delegate",
        lambda: delegate(
            run(folder / "delegate", "delegate", DELEGATE),
            DELEGATE,
            prepared=prepared,
            labels=labels,
            pretrained=pretrained,
        ),
    )
    calibrating = CalibrateConfig(max_tokens=2000, device="cpu", precision="32-true")
    calibration = watched(
        "calibrate",
        lambda: calibrate(
            run(folder / "calibrate", "calibrate"), calibrating, delegated=delegated, prepared=prepared, labels=labels
        ),
    )
    cascade = watched(
        "cascade",
        lambda: stage(
            run(folder / "cascade", "cascade"),
            CASCADE,
            delegated=delegated,
            calibration=calibration,
            prepared=prepared,
            labels=labels,
            pretrained=pretrained,
        ),
    )
    return Stages(prepared, pretrained, labels, delegated, calibration, cascade)


@pytest.fixture(scope="module")
def results(stages: Stages) -> CascadeResults:
    return stages.cascade.results()


@pytest.mark.parametrize("name", ["prepare", "pretrain", "label", "delegate", "calibrate", "cascade"])
def test_whatever_a_stage_executes_is_part_of_its_key(stages: Stages, ran: dict[str, set[str]], name: str) -> None:
    assert ran[name]
    assert not_counted(ran[name], reach(STAGES[name][0]).code) == set()


def test_the_stage_leaves_a_page_figures_and_texts(stages: Stages) -> None:
    cascade = stages.cascade.verify()
    assert cascade.path(cascade.CURVE_PNG).read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in cascade.path(cascade.CURVE_SVG).read_bytes()
    page = cascade.report.read_text(encoding="utf-8")
    for title in ("# What asking is worth", "## By call budget", "## Biographies, fact by fact", "## What it cost"):
        assert title in page
    lines = cascade.path(CascadeAssessment.BIOGRAPHIES).read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["subject"] for line in lines}) == 4


def test_every_figure_is_a_metric_of_both_models(stages: Stages) -> None:
    metrics = stages.cascade.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert {"factual_share", "helper_right"} <= metrics.keys()
    for prefix in ("", "plain_"):
        for name in (
            "fact_accuracy_alone", "fact_accuracy", "fact_accuracy_bound", "gain_of_bound", "wasted_calls",
            "auroc_wrong_fact", "auroc_wrong", "bits_per_byte_all", "bits_per_byte_factual", "bits_per_byte_other",
            "leakage", "recall_alone", "recall_cascade", "calls_alone", "calls_cascade",
        ):  # fmt: skip
            assert f"{prefix}{name}" in metrics
        alone, accuracy = metrics[f"{prefix}fact_accuracy_alone"], metrics[f"{prefix}fact_accuracy"]
        assert alone <= accuracy <= metrics[f"{prefix}fact_accuracy_bound"]
        assert metrics[f"{prefix}calls_alone"] == 0.0
        assert 0 < metrics[f"{prefix}calls_cascade"] <= 0.15
    assert 0.15 < metrics["factual_share"] < 0.35


def test_the_curve_begins_alone_and_ends_with_every_fact_right(results: CascadeResults, stages: Stages) -> None:
    for model in (results.model, results.plain):
        assert model is not None
        assert [point.budget for point in model.curve] == [0.0, 0.1, 0.15, 0.5, 1.0]
        first, last = model.curve[0], model.curve[-1]
        assert first.accuracy == first.bound
        assert (first.wasted, first.precision) == (0.0, 0.0)
        assert last.accuracy == last.bound == 1.0
        assert last.wasted == pytest.approx(1 - results.factual_share)
        assert model.at_budget == model.curve[2]
    assert (results.model.score, results.plain.score if results.plain else "") == ("call", "entropy")
    assert (results.selection, results.seed, results.helper) == ("lacy", 3, stages.cascade.details["helper"])
    assert results.cost.tokens_gt_grad + results.cost.tokens_call_grad == results.cost.tokens_forward
    assert results.helper_accuracy.calls > 0


def test_with_budget_0_the_cascade_is_the_model_alone(stages: Stages, tmp_path: Path) -> None:
    cfg = CASCADE.model_copy(update={"cascade": CascadeConfig(budget=0.0)})
    artifact = stage(run(tmp_path, "cascade"), cfg, **stages.measured())
    found = artifact.results()
    assert found.plain is None
    assert found.model.alone == found.model.cascade
    assert found.model.cascade is not None
    assert found.model.cascade.calls == found.model.cascade.helper_tokens == 0
    assert found.model.at_budget == found.model.curve[0]
    assert found.model.gain_of_bound == 1.0  # nothing could be gained
    assert found.helper_accuracy.calls == 0
    assert "plain_leakage" not in artifact.metrics


def test_the_same_models_give_the_same_figures_and_can_be_compared(
    stages: Stages, results: CascadeResults, tmp_path: Path
) -> None:
    again = stage(run(tmp_path / "again", "cascade"), CASCADE, **stages.measured(), pretrained=stages.pretrained)
    found = again.results()
    timed = {"helper_accuracy"}
    assert found.model_dump(exclude=timed) == results.model_dump(exclude=timed)
    assert (
        again.path(CascadeAssessment.BIOGRAPHIES).read_bytes()
        == stages.cascade.path(CascadeAssessment.BIOGRAPHIES).read_bytes()
    )
    compared = study(run(tmp_path / "study", "study"), BootstrapConfig(), first=stages.cascade, again=again)
    assert compared.metrics["lacy.at_budget"] == pytest.approx(stages.cascade.metrics["fact_accuracy"])


def test_a_model_that_diverged_is_refused(stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = checkpoint.load_model

    def broken(*arguments: object) -> object:
        model = whole(*arguments)  # type: ignore[arg-type]
        model.output_weight.data.fill_(math.nan)
        return model

    monkeypatch.setattr(checkpoint, "load_model", broken)
    with pytest.raises(ArtifactError, match="its training diverged"):
        stage(run(tmp_path, "cascade"), CASCADE, **stages.measured())
