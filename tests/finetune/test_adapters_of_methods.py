"""``finetune.adapter`` reaches the training of a method: here, of conversations."""

import json
from pathlib import Path

import pytest
import torch

from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.chats.config import ChatsConfig, ConversationsConfig
from components.data.prepared import PreparedData
from components.data.special_tokens import SpecialTokens
from components.deployment.adapters import AdapterSources
from components.finetune.chat import prepare as prepare_chats
from components.finetune.chat import train as train_chat
from components.finetune.chat.config import ChatTrainConfig
from components.model.adapters.config import AdapterConfig
from components.model.adapters.files import read_adapter
from components.model.checkpoint import load_model
from components.model.config import ModelConfig
from components.training.config import TrainerConfig
from components.training.trained import TrainedModel
from conf.compose import compose_project
from tests.trained import untrained
from tests.training.conftest import prepare

SHAPE = ModelConfig(name="tiny", layers=1, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=64)
TRAINER = TrainerConfig(
    max_steps=6, batch_size=4, micro_batch_size=4, learning_rate=2e-2, precision="32-true", threads=1
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def chats(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Chats:
    folder = tmp_path_factory.mktemp("chats")
    lines = [{"prompt": f"Who built boat {number}?", "response": "A carpenter of oak."} for number in range(200)]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
    conversations = ConversationsConfig(sources=[str(folder / "chats.jsonl")], validation_fraction=0.2)
    config = ChatsConfig(conversations=conversations, context_length=64, replay=0)
    return prepare_chats.stage(Run.local(folder / "chats"), config, prepared=prepared)


@pytest.fixture(scope="module")
def base(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return untrained(tmp_path_factory.mktemp("base"), prepared, SHAPE)


def test_a_chat_adapter_on_its_base_is_the_chat_model(base: TrainedModel, chats: Chats, tmp_path: Path) -> None:
    config = ChatTrainConfig(trainer=TRAINER, adapter=AdapterConfig(kind="lora", rank=2))
    tuned = train_chat.stage(Run.local(tmp_path), config, base=base, chats=chats)
    special = SpecialTokens.read(chats.tokenizer_folder)
    model, alone = tuned.load(), load_model(base.model_folder)
    moved = (model.output_weight != alone.output_weight).any(dim=1).nonzero().flatten().tolist()
    assert {special.im_start, special.im_end, special.call} <= set(moved) <= set(special.ids.values())
    served = AdapterSources({"chat": str(tuned.folder)}).load(alone, None)
    assert set(moved) == set(served["chat"].weights.rows.ids)
    read_adapter(alone, tuned.adapter_folder)
    tokens = torch.tensor([[special.im_start, 40, 90, special.im_end, 120]])
    with torch.no_grad():
        torch.testing.assert_close(alone.logits(alone(tokens)), model.logits(model(tokens)), rtol=1e-5, atol=1e-6)


def test_the_setting_is_part_of_what_the_training_of_conversations_sees() -> None:
    config = compose_project(overrides=["finetune=chat", "finetune.adapter.kind=dora", "finetune.adapter.rank=3"])
    assert config.chat.adapter == AdapterConfig(kind="dora", rank=3)
