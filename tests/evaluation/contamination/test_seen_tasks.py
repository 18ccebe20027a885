"""Published tasks are looked for in the text that the evaluated model learnt from, and in no other."""

from pathlib import Path

import pytest

from components.core.run import Run
from components.data.prepared import PreparedData
from components.evaluation.artifacts import Evaluation
from components.evaluation.contamination.examples import METRIC, TRAIN_SPLIT
from components.evaluation.evaluate import stage
from components.evaluation.evaluate_config import EvaluateConfig, EvaluateStageConfig
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.score_table import Score, read_scores, rows
from components.model.checkpoint import save_model
from components.model.transformer import Transformer
from components.training.trained import TrainedModel
from tests.evaluation.harness.conftest import write_rows
from tests.fakes import SPECIAL

pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")


def trained_on(content: str, folder: Path, network: Transformer, prepared: PreparedData) -> TrainedModel:
    run = Run.local(folder, "pretrain")
    run = Run(run.folder, run.identity.model_copy(update={"inputs": {"prepared": content}}))
    save_model(network, run.folder / TrainedModel.MODEL, SPECIAL)
    for path in prepared.tokenizer_folder.iterdir():
        (run.folder / TrainedModel.MODEL / path.name).write_bytes(path.read_bytes())
    return run.seal({}, view=TrainedModel)


def seen(folder: Path, model: TrainedModel, prepared: PreparedData, data: Path) -> list[Score]:
    config = EvaluateStageConfig(evaluate=EvaluateConfig(tasks=["copa"], harness=HarnessConfig(data=str(data))))
    found = stage(Run.local(folder, "evaluate"), config, trained=model, prepared=prepared)
    return [row for row in rows(read_scores(found.path(Evaluation.SCORES))) if row.metric == METRIC]


def test_an_example_of_the_training_text_is_counted(
    tmp_path: Path, prepared: PreparedData, untrained: Transformer
) -> None:
    text = " ".join(next(iter(prepared.texts(TRAIN_SPLIT, [0]))).split())
    strange = "Nobody ever wrote these fourteen words into any article about any town of the world"
    examples = [{"query": each, "choices": ["so", "not"], "gold": 0} for each in (text, strange)]
    write_rows(tmp_path / "data" / "copa" / "validation.jsonl", examples)
    own = trained_on(prepared.content, tmp_path / "own", untrained, prepared)
    assert [row.score for row in seen(tmp_path / "first", own, prepared, tmp_path / "data")] == [1.0, 0.0]
    other = trained_on("of other data", tmp_path / "other", untrained, prepared)
    assert seen(tmp_path / "second", other, prepared, tmp_path / "data") == []
