import pytest

from components.core.run import Run
from components.data.config import DataConfig
from components.data.prepare import stage as prepare
from components.data.prepared import PreparedData
from components.data.world.config import WorldConfig
from components.finetune.preference.artifact import Pairs, References
from components.finetune.preference.config import PairsConfig, ReferenceConfig
from components.finetune.preference.pairs import stage as preferences
from components.finetune.preference.reference import stage as refer
from components.model.config import ModelConfig
from components.training.trained import TrainedModel
from tests.trained import untrained

MODEL = ModelConfig(name="tiny", layers=1, width=16, hidden_width=32, heads=2, kv_heads=1, context_length=256)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    config = DataConfig(vocab_size=1024, world=WorldConfig(entities=40), validation_fraction=0.1, test_fraction=0.1)
    return prepare(Run.local(tmp_path_factory.mktemp("prepared"), "prepare"), config)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, prepared: PreparedData) -> TrainedModel:
    return untrained(tmp_path_factory.mktemp("base"), prepared, MODEL)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory, prepared: PreparedData, base: TrainedModel) -> Pairs:
    config = PairsConfig(max_pairs=120)
    return preferences(Run.local(tmp_path_factory.mktemp("pairs")), config, prepared=prepared, model=base)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, pairs: Pairs, base: TrainedModel) -> References:
    config = ReferenceConfig(precision="32-true")
    return refer(Run.local(tmp_path_factory.mktemp("reference")), config, pairs=pairs, model=base)
