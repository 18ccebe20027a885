"""A run of the stage without a flow."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.artifact import LOCAL
from components.core.identity import RecordedIdentity
from components.core.run import Run
from components.derive.config import DeriveConfig, DeriveStageConfig
from components.derive.stage import stage
from components.training.trained import TrainedModel

Derive = Callable[..., TrainedModel]
IDENTITY = RecordedIdentity(stage=LOCAL, key="0" * 32, config={}, inputs={}, code={}, environment={})


@pytest.fixture
def derive(tmp_path: Path) -> Derive:
    """``derive(place, **settings)``: the stage, in a folder of its own."""

    def run(place: Path, **settings: object) -> TrainedModel:
        folder = tmp_path / "derived"
        folder.mkdir()
        config = DeriveStageConfig(start_from=str(place), derive=DeriveConfig.model_validate(settings))
        return stage(Run(folder, IDENTITY), config)

    return run
