"""A small teacher, and servers that write."""

from collections.abc import Iterator

import pytest

from components.core.run import Run
from components.data.prepared import PreparedData
from components.model.config import ModelConfig
from components.pretrain import stage as pretrain
from components.training.config import PretrainConfig, TrainerConfig
from components.training.trained import TrainedModel
from tests.clients.server import Server
from tests.training.conftest import prepare

TEACHER = ModelConfig(name="teacher", layers=1, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=32)
TRAINER = TrainerConfig(
    max_steps=20,
    batch_size=8,
    micro_batch_size=4,
    optimizer="adamw",
    learning_rate=1e-2,
    precision="32-true",
    threads=1,
    log_every_steps=5,
    validate_every_steps=10,
    validation_batches=4,
)


@pytest.fixture(scope="package")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="package")
def teacher(tmp_path_factory: pytest.TempPathFactory, prepared: PreparedData) -> TrainedModel:
    run = Run.local(tmp_path_factory.mktemp("teacher"), "pretrain")
    return pretrain(run, PretrainConfig(model=TEACHER, trainer=TRAINER), prepared=prepared)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()
