import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from components.core import worker
from components.core.errors import ArtifactError, InputError
from components.core.identity import Identity
from components.core.run import Run
from components.data.prepared import PreparedData
from components.evaluation import assess
from components.evaluation.artifacts import Scores
from components.evaluation.config import AssessConfig, QuestionsConfig, SamplesConfig
from components.model.checkpoint import WEIGHTS, save_model
from components.model.transformer import Transformer
from components.training.trained import TrainedModel
from tests.fakes import SPECIAL

CFG = AssessConfig(resamples=500, samples=SamplesConfig(count=2, max_tokens=12), precision="32-true")


def pretrained_artifact(folder: Path, model: Transformer) -> TrainedModel:
    """What the pretrain stage leaves, for a model trained elsewhere."""
    run = Run.local(folder, "pretrain")
    save_model(model, folder / TrainedModel.MODEL, SPECIAL)
    rows: list[dict[str, float]] = [
        {"step": step, "loss": 5 / step, "learning_rate": 1e-3, "tokens_per_second": 1e4} for step in range(1, 30)
    ]
    rows.append({"step": 29, "validation_loss": 1.0, "validation_bits_per_byte": 0.5})
    (folder / TrainedModel.HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = "parameters tokens loss validation_loss validation_bits_per_byte tokens_per_second mfu seconds steps"
    return run.seal(
        dict.fromkeys(names.split(), 1.0),
        {"precision": "32-true", "device": "cpu", "ops": {"attention": "torch"}, "peak": "measured"},
        view=TrainedModel,
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, trained: Transformer) -> TrainedModel:
    return pretrained_artifact(tmp_path_factory.mktemp("pretrained"), trained)


@pytest.fixture(scope="module")
def assessed(tmp_path_factory: pytest.TempPathFactory, pretrained: TrainedModel, prepared: PreparedData) -> Scores:
    identity = pretrained.record.identity.model_copy(update={"stage": "assess"})
    run = Run.recorded(tmp_path_factory.mktemp("assessed"), identity)
    return assess.stage(run, CFG, model=pretrained, prepared=prepared)


def test_every_file_of_the_contract_is_there_and_sealed(assessed: Scores) -> None:
    names = {"report.md", "loss.png", "loss.svg", "documents.npy", "samples.jsonl", "answers.jsonl"}
    assert set(assessed.record.files) == names
    assert Scores.open(assessed.folder).fault() is None


def test_the_figures_follow_from_the_saved_documents(assessed: Scores, prepared: PreparedData) -> None:
    table = np.load(assessed.path(Scores.DOCUMENTS), allow_pickle=False)
    split = prepared.details["splits"]["test"]
    assert len(table) == split["documents"] == 40
    assert table["bytes"].sum() == split["bytes"]
    assert table["tokens"].sum() == split["tokens"]
    metrics = assessed.metrics
    assert metrics["bits_per_byte"] == pytest.approx(table["nats"].sum() / math.log(2) / table["bytes"].sum())
    assert metrics["perplexity"] == pytest.approx(math.exp(table["nats"].sum() / table["tokens"].sum()))
    assert metrics["bits_per_byte_low"] < metrics["bits_per_byte"] < metrics["bits_per_byte_high"]


def test_the_answers_file_agrees_with_the_exact_match(assessed: Scores) -> None:
    answers = assessed.answers()
    assert assessed.metrics["questions"] == len(answers) == 8
    assert assessed.metrics["exact_match"] == pytest.approx(np.mean([answer.correct for answer in answers]))
    assert assessed.metrics["exact_match"] >= 0.75
    assert {"exact_match_head", "exact_match_tail"} <= assessed.metrics.keys()


def test_samples_continue_held_out_documents(assessed: Scores, prepared: PreparedData) -> None:
    samples = assessed.samples()
    assert len(samples) == 2
    for sample in samples:
        assert len(sample.prompt.split()) == CFG.samples.prompt_words
        assert sample.continuation
        assert "born" in sample.prompt + sample.original


def test_the_report_shows_the_figures_that_were_recorded(assessed: Scores) -> None:
    page = assessed.report.read_text()
    assert f"**{assessed.metrics['bits_per_byte']:.4f}**" in page
    assert f"**{assessed.metrics['exact_match']:.1%}** of 8" in page
    assert "](loss.png)" in page


def test_progress_only_rises_and_ends_at_one(assessed: Scores) -> None:
    events = [json.loads(line) for line in (assessed.folder / "events.jsonl").read_text().splitlines()]
    fractions = [event["progress"] for event in events if "progress" in event]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0


def test_the_limits_are_kept_and_say_nothing_about_questions_that_were_not_asked(
    tmp_path: Path, pretrained: TrainedModel, prepared: PreparedData
) -> None:
    cfg = CFG.model_copy(
        update={"max_documents": 7, "questions": QuestionsConfig(max_questions=0), "samples": SamplesConfig(count=0)}
    )
    result = assess.stage(Run.local(tmp_path), cfg, model=pretrained, prepared=prepared)
    assert len(np.load(result.path(Scores.DOCUMENTS))) == 7
    assert "exact_match" not in result.metrics
    assert "answers.jsonl" not in result.record.files


def test_bf16_changes_the_figure_by_less_than_its_uncertainty(
    tmp_path: Path, assessed: Scores, pretrained: TrainedModel, prepared: PreparedData
) -> None:
    cfg = CFG.model_copy(update={"precision": "bf16-mixed"})
    narrow = assess.stage(Run.local(tmp_path), cfg, model=pretrained, prepared=prepared)
    assert narrow.metrics["bits_per_byte"] == pytest.approx(assessed.metrics["bits_per_byte"], rel=0.01)


def test_altered_weights_are_refused(tmp_path: Path, pretrained: TrainedModel, prepared: PreparedData) -> None:
    shutil.copytree(pretrained.folder, tmp_path / "copy")
    weights = tmp_path / "copy" / TrainedModel.MODEL / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors was altered"):
        assess.stage(Run.local(tmp_path / "run"), CFG, model=TrainedModel.open(tmp_path / "copy"), prepared=prepared)


def test_a_diverged_model_is_an_error_that_says_so(
    tmp_path: Path, trained: Transformer, prepared: PreparedData
) -> None:
    broken = Transformer(trained.config, trained.vocab_size)
    with torch.no_grad():
        broken.output_weight.fill_(math.nan)
    with pytest.raises(ArtifactError, match="no finite likelihood"):
        assess.stage(
            Run.local(tmp_path / "run"), CFG, model=pretrained_artifact(tmp_path / "model", broken), prepared=prepared
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so asking for it is right")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, pretrained: TrainedModel, prepared: PreparedData) -> None:
    cfg = CFG.model_copy(update={"device": "cuda"})
    with pytest.raises(InputError, match="device 'cuda' was asked for"):
        assess.stage(Run.local(tmp_path), cfg, model=pretrained, prepared=prepared)


def test_the_stage_runs_in_the_worker_process(tmp_path: Path, pretrained: TrainedModel, prepared: PreparedData) -> None:
    identity = Identity.of("assess", "components.evaluation.assess:stage", CFG, {})
    worker.write_request(
        tmp_path,
        worker.Request(
            function="components.evaluation.assess:stage",
            config_type="components.evaluation.config:AssessConfig",
            config=CFG.model_dump(mode="json"),
            inputs={"model": pretrained.folder, "prepared": prepared.folder},
            identity=identity,
        ),
    )
    assert worker.main(tmp_path) == 0
    assert Scores.open(tmp_path).metrics["bits_per_byte"] > 0
