"""The typed schema behind the command line, the YAML files and the Prefect form.

One root for all flows: a flow brings everything upstream of it up to date first, so it needs those sections too, and
an override means the same wherever it is typed. What a stage's key depends on is only its own section.
"""

from pydantic import BaseModel, ConfigDict, Field

from components.data.config import DataConfig
from components.deployment.config import BundleConfig, ServeConfig, SmokeConfig
from components.evaluation.config import AssessConfig, GateConfig
from components.model.config import ModelConfig
from components.training.config import PretrainConfig, TrainerConfig
from conf.services import TrackingConfig, VersioningConfig


class ReleaseConfig(BaseModel):
    """What happens to a model that has been assessed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gate: GateConfig = GateConfig()
    """When a challenger may replace the champion."""
    bundle: BundleConfig = BundleConfig()
    """What is registered."""
    smoke: SmokeConfig = SmokeConfig()
    """The question put to the real server process before promotion."""
    allow_rolled_back: bool = False
    """Promote a model again although someone rolled it back before."""


class ProjectConfig(BaseModel):
    """Everything a flow can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    data: DataConfig = DataConfig()
    """From sources to token shards."""
    model: ModelConfig = ModelConfig()
    """Shape of the network; presets: `model=quick`, `10m`, `30m`, `124m`, `334m`, `1b`."""
    trainer: TrainerConfig = TrainerConfig()
    """The training loop."""
    assess: AssessConfig = AssessConfig()
    """How the trained model is measured."""
    release: ReleaseConfig = ReleaseConfig()
    """Gate, registration, smoke test and promotion."""
    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps runs and registered models."""
    versioning: VersioningConfig = VersioningConfig()
    """Where DVC keeps the bytes of data sets."""

    @property
    def pretrain(self) -> PretrainConfig:
        """The slice that the pretraining stage sees."""
        return PretrainConfig(model=self.model, trainer=self.trainer)


class ServeCommandConfig(ServeConfig):
    """`lacewing serve`: the server's settings, and where the registry is."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # model=3 is version 3

    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps registered models."""


class UpConfig(BaseModel):
    """Servers that `lacewing up` starts, all on loopback unless told otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to bind; anything but loopback exposes servers that have no users or passwords."""
    prefect_port: int = Field(default=4200, ge=1, le=65535)
    """Port of the Prefect server and its UI."""
    mlflow_port: int = Field(default=5000, ge=1, le=65535)
    """Port of the MLflow server and its UI."""
    startup_timeout_seconds: int = Field(default=180, ge=5)
    """How long each server may take until it answers."""
