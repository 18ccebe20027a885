"""Ending early: which weights a training ends with, when it stops, and that an interruption changes neither."""

import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.model.checkpoint import load_model
from components.model.transformer import Transformer
from components.pretrain import stage
from components.training.best import Best, best_step, validations_since
from components.training.checkpoints import StoppedError
from components.training.config import TrainerConfig
from components.training.loader import TrainingOrder, ValidationBatches
from components.training.module import TrainingModule
from components.training.objectives.base import Outputs
from components.training.objectives.next_token import NextToken
from components.training.trained import TrainedModel, read_history
from tests.test_pretrain import assert_bit_equal, config, weights
from tests.training.ragged import MODEL, VOCABULARY, settings

VALIDATED = {
    "max_steps": 12, "log_every_steps": 1, "validate_every_steps": 2, "validation_batches": 2,
    "checkpoint_every_steps": 3,
}  # fmt: skip
# As if a higher loss were better: so the best is known beforehand to be the first, and patience ends at step 8.
PATIENT = {"keep": "best", "criterion": "validation_bits_per_byte", "better": "higher", "patience": 3}


class KilledError(Exception):
    """Stands for the end of the process."""


def until(step: int, folder: Path, end: Callable[[], None]) -> Run:
    """A run in which ``end`` happens when a step is logged."""

    def log(metrics: Mapping[str, float], logged: int | None) -> None:
        if logged == step and "loss" in metrics:
            end()

    return Run(folder, Run.local(folder).identity, log=log)


def kill() -> None:
    raise KilledError


@pytest.fixture(scope="module")
def ended(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A training that keeps the best and has patience."""
    return stage(Run.local(tmp_path_factory.mktemp("ended")), config(**VALIDATED, **PATIENT), prepared=prepared)


@pytest.fixture(scope="module")
def whole(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """The same training to its end."""
    return stage(Run.local(tmp_path_factory.mktemp("whole")), config(**VALIDATED), prepared=prepared)


def validations(artifact: TrainedModel) -> dict[int, float]:
    return {row["step"]: row["validation_loss"] for row in artifact.history() if "validation_loss" in row}


def nats(artifact: TrainedModel, prepared: PreparedData) -> float:
    """Loss of the saved weights on the whole validation split."""
    model, shards = load_model(artifact.model_folder), prepared.shards()
    total = tokens = 0.0
    with torch.inference_mode():
        for batch in ValidationBatches(shards.splits["validation"], 32, shards.boundary_id, 4, 2):
            outputs = Outputs(model(batch.tokens, batch.document_start).flatten(0, 1), model.output_weight)
            total += outputs.token_stats(batch).nll_full.sum().item()
            tokens += (batch.targets >= 0).sum().item()
    return total / tokens


def test_the_weights_of_the_best_validation_are_kept(ended: TrainedModel, prepared: PreparedData) -> None:
    losses = validations(ended)
    assert ended.metrics["kept_step"] == 2 == max(losses, key=losses.__getitem__)
    assert ended.metrics["validation_loss"] == losses[2] == pytest.approx(nats(ended, prepared), rel=1e-4)


def test_without_the_wish_the_last_weights_are_kept(whole: TrainedModel, prepared: PreparedData) -> None:
    assert whole.metrics["validation_loss"] == validations(whole)[12] == pytest.approx(nats(whole, prepared), rel=1e-4)
    assert "kept_step" not in whole.metrics


def test_training_stops_when_patience_ends_and_says_how_far_it_went(ended: TrainedModel, whole: TrainedModel) -> None:
    assert ended.metrics["steps"] == max(validations(ended)) == 2 + 3 * 2
    assert ended.metrics["tokens"] == ended.details["tokens"] == 8 * 8 * 32
    # Up to there nothing differs, the learning rate included.
    assert ended.history() == [row for row in whole.history() if row["step"] <= 8]


@pytest.mark.parametrize("criterion", [PATIENT, {"keep": "best"}], ids=["patient", "lowest"])
def test_killed_and_resumed_the_same_weights_are_kept_and_training_stops_where_it_would_have(
    ended: TrainedModel, whole: TrainedModel, prepared: PreparedData, tmp_path: Path, criterion: dict[str, object]
) -> None:
    cfg = config(**VALIDATED, **criterion)
    with pytest.raises(KilledError):
        stage(until(7, tmp_path / "run", kill), cfg, prepared=prepared)
    assert len(list((tmp_path / "run/checkpoints").glob("best-*"))) <= 2  # what the checkpoints need, and no more
    resumed = stage(Run.local(tmp_path / "run"), cfg, prepared=prepared)
    uninterrupted = ended if criterion is PATIENT else whole
    assert_bit_equal(weights(resumed.folder), weights(uninterrupted.folder))
    assert resumed.history() == uninterrupted.history()
    assert resumed.metrics["kept_step"] == (2 if criterion is PATIENT else 12)


def test_a_training_whose_patience_had_ended_when_it_was_killed_does_not_go_on(
    ended: TrainedModel, prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(**{**VALIDATED, "checkpoint_every_steps": 1}, **PATIENT)
    with monkeypatch.context() as patched:
        patched.setattr("components.training.session._save", lambda *_: kill())
        with pytest.raises(KilledError):
            stage(Run.local(tmp_path / "run"), cfg, prepared=prepared)
    sealed = stage(Run.local(tmp_path / "run"), cfg, prepared=prepared)
    assert sealed.metrics["steps"] == 8
    assert_bit_equal(weights(sealed.folder), weights(ended.folder))


def test_a_stop_at_a_step_with_a_validation_waits_for_it(prepared: PreparedData, tmp_path: Path) -> None:
    """Otherwise the resumed run would go without this validation, which may have been the best."""
    cfg = config(**VALIDATED, keep="best")
    stopped = until(4, tmp_path / "run", lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(StoppedError, match="after step 4 of 12"):
        stage(stopped, cfg, prepared=prepared)
    rows = read_history(tmp_path / "run" / TrainedModel.HISTORY)
    assert [row["step"] for row in rows if "validation_loss" in row] == [2, 4]


def test_best_weights_that_are_gone_are_an_error(
    prepared: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.training.best.Best._path", lambda self, step: tmp_path / "gone" / f"{step}.ckpt")
    monkeypatch.setattr("components.training.best.AtomicCheckpointIO.save_checkpoint", lambda *_: None)
    with pytest.raises(ArtifactError, match="are missing: train again from the start"):
        stage(Run.local(tmp_path / "run"), config(max_steps=4, keep="best"), prepared=prepared)


def test_the_first_of_equal_validations_is_the_best_and_no_number_is_the_worst() -> None:
    rows = [{"step": step, "validation_loss": value} for step, value in enumerate([math.nan, 2.0, 1.0, 1.0, 3.0])]
    assert best_step(rows, TrainerConfig()) == 2
    assert best_step(rows, TrainerConfig(better="higher")) == 4
    assert validations_since(rows, 2) == 2


def test_a_criterion_that_is_no_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"criterion=score is no metric .* one of validation_loss"):
        best_step([{"step": 1, "validation_loss": 1.0}], TrainerConfig(criterion="score"))


def test_a_loss_that_is_no_number_names_the_step_and_the_windows_of_its_batch(
    prepared: PreparedData, tmp_path: Path
) -> None:
    cfg = config(learning_rate=1e30, optimizer="adamw", warmup_fraction=0.0, log_every_steps=1)
    with pytest.raises(InputError, match=r"became nan at step (\d) of 24: .* The batch was windows [\d, ]+ of") as stop:
        stage(Run.local(tmp_path / "run"), cfg, prepared=prepared)
    step = int(str(stop.value).partition("at step ")[2][0])
    named = str(stop.value).partition("windows ")[2].partition(" of")[0]
    windows = (prepared.shards().splits["train"].n_tokens - 1) // 32
    assert [int(each) for each in named.split(", ")] == TrainingOrder(windows, 8, 4, 0).windows_of(step - 1)


def test_the_windows_of_a_step_are_those_of_all_its_forward_passes() -> None:
    order = TrainingOrder(100, 8, 2, seed=3, ranks=2)
    passes = [window for rank in range(2) for part in order.micro_batches(5, rank) for window in part]
    assert sorted(passes) == sorted(order.windows_of(5))


@pytest.mark.parametrize("first_rank_stops", [False, True])
def test_a_rank_without_a_history_stops_when_the_first_one_does(tmp_path: Path, first_rank_stops: bool) -> None:
    strategy = SimpleNamespace(reduce_boolean_decision=lambda own, all: own or first_rank_stops)
    trainer: Any = SimpleNamespace(is_global_zero=False, global_step=2, should_stop=False, strategy=strategy)
    history: Any = SimpleNamespace(path=tmp_path / "history.jsonl")
    best = Best(tmp_path, TrainerConfig.model_validate(PATIENT), history)
    best.on_validation_end(trainer, TrainingModule(Transformer(MODEL, VOCABULARY), settings(), NextToken()))
    assert trainer.should_stop is first_rank_stops
    assert not list(tmp_path.iterdir())
