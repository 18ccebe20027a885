"""Part of the way back to the base: which weights go, which stay, and what it cannot be combined with."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from components.core.neutral import neutral_fields
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.special_tokens import SpecialTokens
from components.finetune.chat.blending import blend
from components.finetune.chat.config import ChatTrainConfig
from components.finetune.chat.train import stage
from components.model.adapters.config import AdapterConfig
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.checkpoints import StoppedError
from components.training.config import TrainerConfig
from components.training.trained import TrainedModel
from conf.compose import compose_project
from tests.finetune.chat.test_train import LOOP, MODEL, weights
from tests.trained import stopping_after, untrained

pytestmark = pytest.mark.usefixtures("quick_peak")

TIED = ModelConfig(name="tiny", layers=1, width=8, hidden_width=8, heads=2, kv_heads=1, context_length=6)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_lie_between_base_and_tuned_and_special_rows_stay_tuned(chats: Chats, tied: bool) -> None:
    special = SpecialTokens.read(chats.tokenizer_folder)
    rows = sorted(special.ids.values())
    base, model = (Transformer(TIED.model_copy(update={"tied": tied}), 320) for _ in range(2))
    tuned = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    blend(model, base, 0.25, special)
    others = [row for row in range(320) if row not in rows]
    for name, before in base.named_parameters():
        after, expected = dict(model.named_parameters())[name], 0.75 * before + 0.25 * tuned[name]
        if name.startswith(("embedding", "head")):
            assert torch.equal(after[rows], tuned[name][rows]), name
            after, expected = after[others], expected[others]
        torch.testing.assert_close(after, expected)


@pytest.fixture(scope="module")
def base(chats: Chats, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return untrained(tmp_path_factory.mktemp("base"), chats, MODEL)


def config(tuned_share: float) -> ChatTrainConfig:
    return ChatTrainConfig(trainer=TrainerConfig.model_validate(LOOP), tuned_share=tuned_share)


def test_a_stopped_and_resumed_run_ends_at_the_same_place_part_of_the_way(
    base: TrainedModel, chats: Chats, tmp_path: Path
) -> None:
    whole = stage(Run.local(tmp_path / "whole", "chat"), config(1.0), base=base, chats=chats)
    with stopping_after(5), pytest.raises(StoppedError, match="after step 5 of 8"):
        stage(Run.local(tmp_path / "part", "chat"), config(0.5), base=base, chats=chats)
    part = stage(Run.local(tmp_path / "part", "chat"), config(0.5), base=base, chats=chats)
    before, after = weights(base), weights(whole)
    norms = [name for name in before if "embed" not in name]
    for name in norms:
        assert torch.equal(weights(part)[name], torch.lerp(before[name], after[name], 0.5)), name
    assert any(not torch.equal(before[name], after[name]) for name in norms)
    assert whole.history() == part.history()


def test_an_adapter_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(ValidationError, match=r"tuned_share=0.5 with adapter.kind=lora.*Set tuned_share=1, or"):
        ChatTrainConfig(tuned_share=0.5, adapter=AdapterConfig(kind="lora"))


def test_the_setting_reaches_the_stage_and_is_no_part_of_a_key_at_one() -> None:
    assert compose_project(overrides=["finetune=chat", "finetune.chat.tuned_share=0.5"]).chat.tuned_share == 0.5
    fields = {each.path: each.is_neutral for each in neutral_fields(ChatTrainConfig())}
    assert fields[("tuned_share",)]
    assert fields[("remember",)]
