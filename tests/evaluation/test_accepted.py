"""Reports and the gate say what a person has vouched for."""

from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.identity import RecordedIdentity
from components.core.run import Run
from components.data.prepared import PreparedData
from components.evaluation import assess
from components.evaluation.config import AssessConfig, GateConfig, QuestionsConfig, SamplesConfig
from components.evaluation.gate.stage import stage as gate
from components.model.bundle import Bundle
from components.model.transformer import Transformer
from tests.core.test_acceptance import FIRST
from tests.evaluation.conftest import bundle
from tests.evaluation.test_assess import pretrained_artifact

LINE = "pretrain accepted on 2026-11-25 by ann: a message was reworded"


def run(folder: Path) -> Run:
    folder.mkdir()
    identity = RecordedIdentity(stage="local", key="0" * 32, config={}, inputs={}, code={}, environment={})
    return Run(folder, identity, accepted=(FIRST,))


def test_the_report_on_a_model(tmp_path: Path, untrained: Transformer, prepared: PreparedData) -> None:
    config = AssessConfig(
        precision="32-true", max_documents=3, questions=QuestionsConfig(max_questions=0), samples=SamplesConfig(count=0)
    )
    model = pretrained_artifact(tmp_path / "model", untrained)
    scores = assess.stage(run(tmp_path / "run"), config, model=model, prepared=prepared)
    assert LINE in scores.report.read_text()
    assert scores.record.accepted == [FIRST]


@pytest.mark.parametrize("champion", [False, True])
def test_the_reason_of_the_gate(tmp_path: Path, untrained: Transformer, prepared: PreparedData, champion: bool) -> None:
    challenger = bundle(tmp_path / "bundle", untrained, prepared)
    config = GateConfig(precision="32-true", max_documents=12, texts=0, questions=0)
    defender = Bundle.open(challenger.folder) if champion else None
    decision: Artifact = gate(run(tmp_path / "run"), config, bundle=challenger, prepared=prepared, champion=defender)
    assert LINE in decision.details["reason"]
