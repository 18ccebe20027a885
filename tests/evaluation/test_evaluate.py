"""The stage ``evaluate``: a table, a report, and nothing lost when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from components.core.artifact import CHECKPOINTS
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.config import DataConfig
from components.data.prepared import PreparedData
from components.evaluation.artifacts import Evaluation
from components.evaluation.cost import COST_METRICS
from components.evaluation.evaluate import PARTS, stage
from components.evaluation.evaluate_config import EvaluateConfig, EvaluateStageConfig, TextConfig
from components.evaluation.score_table import read_scores
from components.labelling.config import LabelConfig
from components.model.checkpoint import save_model
from components.model.transformer import Transformer
from components.training.trained import TrainedModel
from tests.fakes import SPECIAL
from tests.hugging_face_folders import write_folder

SCRIPT = """
import sys
from pathlib import Path
from components.core.run import Run
from components.evaluation.cost import COST_METRICS
from components.evaluation.evaluate import stage
from components.evaluation.evaluate_config import EvaluateStageConfig
from components.training.trained import TrainedModel
config = EvaluateStageConfig.model_validate_json(sys.argv[3])
stage(Run.local(Path(sys.argv[1]), "evaluate"), config, trained=TrainedModel.open(Path(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, trained: Transformer, prepared: PreparedData) -> TrainedModel:
    return sealed(tmp_path_factory.mktemp("training"), trained, prepared)


def sealed(folder: Path, model: Transformer, prepared: PreparedData) -> TrainedModel:
    run = Run.local(folder, "pretrain")
    save_model(model, run.folder / TrainedModel.MODEL, SPECIAL)
    for path in prepared.tokenizer_folder.iterdir():
        (run.folder / TrainedModel.MODEL / path.name).write_bytes(path.read_bytes())
    return run.seal({}, view=TrainedModel)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, prepared: PreparedData) -> str:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in prepared.texts("test", range(30))))
    return str(path)


def config(source: str, model: str = "", **text: object) -> EvaluateStageConfig:
    return EvaluateStageConfig(
        evaluate=EvaluateConfig(
            model=model, name="m", text=TextConfig.model_validate({"documents": "all", **text}), device="cpu"
        ),
        data=DataConfig(sources=[source]),
        label=LabelConfig(annotator="capitals"),
    )


def untimed(path: Path) -> pa.Table:
    table = read_scores(path).drop_columns(["seconds"])
    return table.filter(pc.invert(pc.is_in(table.column("metric"), pa.array(COST_METRICS))))


def test_a_model_of_ours_gets_a_table_and_reports(tmp_path: Path, training: TrainedModel, source: str) -> None:
    evaluation = stage(Run.local(tmp_path, "evaluate"), config(source), trained=training)
    assert isinstance(evaluation, Evaluation)
    table = read_scores(evaluation.scores)
    assert set(table["model"].to_pylist()) == {"m"}
    assert len(set(table.filter(pc.field("weight") > 0)["document"].to_pylist())) == 30
    assert {"bits_per_byte", "bits_per_byte_factual", "confidence", "continuation"} <= set(table["metric"].to_pylist())
    named = {name.rpartition(" ")[2] for name in evaluation.metrics}
    assert {"bits_per_byte", "bits_per_byte_factual", "bits_per_byte_other", "calibration_error"} <= named
    page = evaluation.page.read_text()
    for shown in ("How good m is", "Calibration", "Samples", "Cost", "<svg"):
        assert shown in page
    assert "bits\\_per\\_byte" in evaluation.report.read_text()
    assert not list((tmp_path / CHECKPOINTS).glob("sources-*"))


def test_a_folder_of_hugging_face_is_evaluated_on_the_same_text(tmp_path: Path, source: str) -> None:
    folder = write_folder(tmp_path / "tiny")
    evaluation = stage(Run.local(tmp_path / "run", "evaluate"), config(source, str(folder), facts=False))
    table = read_scores(evaluation.scores)
    sizes = sum(row["weight"] for row in table.to_pylist() if row["metric"] == "bits_per_byte")
    texts = [json.loads(line)["text"] for line in Path(source).read_text().splitlines()]
    assert sizes == sum(len(text.encode()) for text in texts)


def test_a_killed_evaluation_goes_on_to_the_same_table(
    tmp_path: Path, training: TrainedModel, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(source, piece_bytes=1)
    whole = stage(Run.local(tmp_path / "whole", "evaluate"), wanted, trained=training)
    folder = tmp_path / "killed"
    parts = folder / CHECKPOINTS / PARTS
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(training.folder), wanted.model_dump_json()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        waited = time.monotonic() + 120
        while len(list(parts.glob("*.parquet"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < waited
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert 3 <= len(kept) < 31
    again = stage(Run.local(folder, "evaluate"), wanted, trained=training)
    assert untimed(again.scores).equals(untimed(whole.scores))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing was made twice


def test_an_unknown_task_is_refused_before_anything_is_read(
    tmp_path: Path, training: TrainedModel, source: str
) -> None:
    wanted = config("/no/such/file.jsonl")
    wanted = wanted.model_copy(update={"evaluate": wanted.evaluate.model_copy(update={"tasks": ["txt"]})})
    with pytest.raises(InputError, match=r"unknown task 'txt'; did you mean text"):
        stage(Run.local(tmp_path, "evaluate"), wanted, trained=training)


def test_a_model_that_gives_no_number_is_refused_by_name(
    tmp_path: Path, trained: Transformer, prepared: PreparedData, source: str
) -> None:
    broken = Transformer(trained.config, trained.vocab_size).eval()
    with torch.no_grad():
        broken.norm.weight[0] = float("nan")
    training = sealed(tmp_path / "broken", broken, prepared)
    with pytest.raises(ArtifactError, match="the model m gives a likelihood that is not finite"):
        stage(Run.local(tmp_path / "run", "evaluate"), config(source), trained=training)


def test_what_is_no_model_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match=r"evaluate\.model='.*nothing' is no folder"):
        stage(Run.local(tmp_path, "evaluate"), config(source, str(tmp_path / "nothing")))
