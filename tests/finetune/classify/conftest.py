"""A tiny base that knows nothing yet, and texts about boats and bread."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from components.core.run import Run
from components.data.prepared import PreparedData
from components.finetune.classify import texts as packing
from components.finetune.classify.artifacts import LabelledTexts
from components.finetune.classify.config import LabelledTextsConfig
from components.model.config import ModelConfig
from components.training.trained import TrainedModel
from tests.trained import untrained
from tests.training.conftest import prepare

MODEL = ModelConfig(name="tiny", layers=1, width=16, hidden_width=32, heads=2, kv_heads=1, context_length=32)
WORDS = {"boats": ["river", "sea", "lake", "oak"], "bread": ["winter", "town", "books", "birds"]}


def sentences(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Rows of three words that go with the label, and one that says nothing."""
    random = np.random.default_rng(seed)
    labels = [["boats", "bread"][number % 2] for number in range(count)]
    return [{"text": " ".join(["the", *random.choice(WORDS[label], 3)]), "label": label} for label in labels]


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def base(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return untrained(tmp_path_factory.mktemp("base"), prepared, MODEL)


@pytest.fixture(scope="session")
def texts(prepared: PreparedData, base: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> LabelledTexts:
    folder = tmp_path_factory.mktemp("texts")
    config = LabelledTextsConfig(train=[str(write(folder / "rows.jsonl", sentences(120)))], similarity=1.0)
    return packing.stage(Run.local(folder / "run"), config, prepared=prepared, base=base)
