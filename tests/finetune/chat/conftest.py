"""A tiny closed world, its text, and conversations about it."""

import pytest

from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.chats.config import ChatsConfig, ConversationsConfig
from components.data.config import DataConfig
from components.data.prepare import stage as prepare
from components.data.prepared import PreparedData
from components.data.world.config import WorldConfig
from components.finetune.chat.prepare import stage as prepare_chats
from components.labelling.artifact import Labels
from components.labelling.config import LabelConfig
from components.labelling.stage import stage as label

CONTEXT = 96
DATA = DataConfig(world=WorldConfig(entities=24, documents_per_entity=2, questions=20), vocab_size=320)
CONVERSATIONS = ConversationsConfig(validation_fraction=0.2, test_fraction=0.2, multi_turn=0.5)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("prepared")
    return prepare(Run.local(folder, "prepare", DATA.model_dump(mode="json")), DATA)


@pytest.fixture(scope="session")
def labels(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Labels:
    config = LabelConfig(agreement_documents=0, processes=1)
    return label(Run.local(tmp_path_factory.mktemp("labels"), "label"), config, prepared=prepared)


@pytest.fixture(scope="session")
def chats(prepared: PreparedData, labels: Labels, tmp_path_factory: pytest.TempPathFactory) -> Chats:
    config = ChatsConfig(conversations=CONVERSATIONS, context_length=CONTEXT, replay=0.1)
    folder = tmp_path_factory.mktemp("chats")
    return prepare_chats(Run.local(folder, "chats"), config, prepared=prepared, labels=labels)


@pytest.fixture(scope="session")
def chat_labels(chats: Chats, tmp_path_factory: pytest.TempPathFactory) -> Labels:
    config = LabelConfig(agreement_documents=0, processes=1)
    return label(Run.local(tmp_path_factory.mktemp("chat_labels"), "label"), config, prepared=chats)
