"""The stage ``chat``: what is learnt, from where it starts, and that no accident loses work."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.chats.columns import LEARNT
from components.data.prepared import PreparedData
from components.data.special_tokens import TOKENIZER
from components.delegation.calibrate import stage as calibrate
from components.delegation.config import CalibrateConfig, DelegationConfig
from components.finetune.chat.config import ChatTrainConfig
from components.finetune.chat.train import stage
from components.finetune.chat.whole_answers import WHOLE_ANSWERS
from components.labelling.artifact import Labels
from components.model.adapters.config import AdapterConfig
from components.model.checkpoint import WEIGHTS
from components.model.config import ModelConfig
from components.pretrain import stage as pretrain
from components.training.checkpoints import StoppedError
from components.training.config import PretrainConfig, TrainerConfig
from components.training.trained import TrainedModel
from tests.finetune.chat.conftest import CONTEXT
from tests.trained import stopping_after

pytestmark = pytest.mark.usefixtures("quick_peak")

MODEL = ModelConfig(name="tiny", layers=1, width=16, hidden_width=32, heads=2, kv_heads=1, context_length=CONTEXT)
LOOP: dict[str, object] = {
    "max_steps": 8,
    "batch_size": 4,
    "micro_batch_size": 2,
    "precision": "32-true",
    "threads": 1,
    "log_every_steps": 1,
    "validate_every_steps": 4,
    "validation_batches": 2,
    "checkpoint_every_steps": 3,
}
DELEGATION = DelegationConfig(budget=0.2, warmup_fraction=0.0)


def config(delegation: DelegationConfig | None = None, **loop: object) -> ChatTrainConfig:
    return ChatTrainConfig(trainer=TrainerConfig.model_validate({**LOOP, **loop}), delegation=delegation)


@pytest.fixture(scope="module")
def base(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    plan = PretrainConfig(model=MODEL, trainer=TrainerConfig.model_validate(LOOP))
    return pretrain(Run.local(tmp_path_factory.mktemp("base"), "pretrain"), plan, prepared=prepared)


def weights(artifact: TrainedModel) -> dict[str, torch.Tensor]:
    return load_file(artifact.model_folder / WEIGHTS)


def test_a_model_that_asks_learns_only_what_the_assistant_says_and_is_calibrated_on_that(
    base: TrainedModel, chats: Chats, chat_labels: Labels, tmp_path: Path
) -> None:
    cfg = config(DELEGATION)
    model = stage(Run.local(tmp_path / "run", "chat"), cfg, base=base, chats=chats, labels=chat_labels)
    split = chats.shards().splits["train"]
    learnt = chats.columns[LEARNT].slice("train", 0, split.n_tokens)
    share = model.metrics["tokens_forward"] / model.metrics["tokens"]
    assert share == pytest.approx(learnt.mean(), rel=0.2), "only these targets count"
    assert model.metrics["tokens_call_grad"] == pytest.approx(0.2 * model.metrics["tokens_forward"], rel=0.1)
    assert DelegationConfig.of(model) == DELEGATION
    assert model.tokens_seen == base.tokens_seen + model.metrics["tokens"]
    calibrated = calibrate(
        Run.local(tmp_path / "calibrate", "calibrate"),
        CalibrateConfig(precision="32-true"),
        delegated=model,
        prepared=chats,
        labels=chat_labels,
    )
    assert calibrated.metrics["tokens"] == chats.details["splits"]["validation"]["assistant_tokens"]


def test_stopped_and_resumed_weights_and_history_are_those_of_an_uninterrupted_run(
    base: TrainedModel, chats: Chats, chat_labels: Labels, tmp_path: Path
) -> None:
    given = {"base": base, "chats": chats, "labels": chat_labels}
    whole = stage(Run.local(tmp_path / "whole", "chat"), config(DELEGATION), **given)  # type: ignore[arg-type]
    with stopping_after(5), pytest.raises(StoppedError, match="after step 5 of 8"):
        stage(Run.local(tmp_path / "stopped", "chat"), config(DELEGATION), **given)  # type: ignore[arg-type]
    resumed = stage(Run.local(tmp_path / "stopped", "chat"), config(DELEGATION), **given)  # type: ignore[arg-type]
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.history() == resumed.history()
    assert whole.content == resumed.content


def test_the_weights_can_be_kept_that_give_the_most_held_out_answers_word_for_word(
    base: TrainedModel, chats: Chats, chat_labels: Labels, tmp_path: Path
) -> None:
    cfg = config(DELEGATION, keep="best", criterion=WHOLE_ANSWERS, better="higher", validate_every_steps=2)
    model = stage(Run.local(tmp_path, "chat"), cfg, base=base, chats=chats, labels=chat_labels)
    scores = {row["step"]: row[WHOLE_ANSWERS] for row in model.history() if WHOLE_ANSWERS in row}
    assert len(scores) == 4
    assert all(0 <= score <= 1 for score in scores.values())
    assert model.metrics[WHOLE_ANSWERS] == max(scores.values()) == scores[model.metrics["kept_step"]]


def test_without_delegation_no_labels_are_needed_and_the_model_starts_from_its_base(
    base: TrainedModel, chats: Chats, tmp_path: Path
) -> None:
    model = stage(Run.local(tmp_path, "chat"), config(max_steps=1, learning_rate=1e-9), base=base, chats=chats)
    before, after = weights(base), weights(model)
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=1e-6)
    assert DelegationConfig.of(model) is None


def test_an_adapter_is_kept_beside_the_merged_model(base: TrainedModel, chats: Chats, tmp_path: Path) -> None:
    cfg = config().model_copy(update={"adapter": AdapterConfig(kind="lora", rank=2)})
    model = stage(Run.local(tmp_path, "chat"), cfg, base=base, chats=chats)
    assert model.path(TrainedModel.ADAPTER).is_dir()
    assert weights(model).keys() == weights(base).keys()
    moved = [name for name, weight in weights(base).items() if not torch.equal(weight, weights(model)[name])]
    assert moved


def test_what_does_not_fit_is_refused_with_what_is_allowed(
    base: TrainedModel, chats: Chats, chat_labels: Labels, tmp_path: Path
) -> None:
    def train(delegation: DelegationConfig | None, labels: Labels | None, base: TrainedModel = base) -> None:
        stage(Run.local(tmp_path / "run", "chat"), config(delegation), base=base, chats=chats, labels=labels)

    with pytest.raises(InputError, match="needs the labels of the conversations"):
        train(DELEGATION, None)
    with pytest.raises(InputError, match="looks at another model, which reads no conversations"):
        train(DelegationConfig(selection="defer"), chat_labels)
    shutil.copytree(base.folder, tmp_path / "other")
    tokenizer = tmp_path / "other" / "model" / TOKENIZER
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(ArtifactError, match="has another vocabulary than the conversations"):
        train(None, None, TrainedModel.open(tmp_path / "other"))
