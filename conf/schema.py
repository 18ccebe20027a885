"""The typed schema behind the command line, the YAML files and the Prefect form.

There is one root for all flows. A flow first updates all earlier stages, so it needs their sections too, and an
override means the same everywhere. The key of a stage depends only on its own section.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, model_validator

from components.cascade.config import CascadeConfig, HelperConfig
from components.data.chats.config import ChatsConfig
from components.data.config import DataConfig
from components.delegation.config import CalibrateConfig, DelegateConfig, DelegationConfig, SelectionName
from components.deployment.config import BundleConfig, BundleStageConfig, ServeConfig, SmokeConfig
from components.deployment.export.config import ExportConfig
from components.deployment.gateway.config import GatewayConfig
from components.derive.config import DeriveConfig, DeriveStageConfig
from components.evaluation.arena.config import ArenaConfig, ArenaStageConfig
from components.evaluation.comparison.config import ComparisonConfig
from components.evaluation.config import (
    AssessConfig,
    BootstrapConfig,
    CascadeAssessConfig,
    FactsConfig,
    GateConfig,
)
from components.evaluation.evaluate_config import EvaluateConfig, EvaluateStageConfig
from components.evaluation.sweep.config import SweepConfig
from components.finetune.chat.config import ChatTrainConfig, ConverseStageConfig
from components.finetune.config import FinetuneConfig
from components.finetune.distill.config import ChooseConfig, DistillStageConfig, TeachConfig, WriteConfig
from components.finetune.preference.config import AssessPreferenceConfig, PreferConfig, ReferenceConfig
from components.labelling.config import LabelConfig
from components.model.config import ModelConfig
from components.training.config import PretrainConfig, TrainerConfig
from conf.form import FormConfig
from conf.limits import Bounded
from conf.services import TrackingConfig, VersioningConfig


class ReleaseConfig(BaseModel):
    """Release of an assessed model."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gate: GateConfig = GateConfig()
    """When a challenger may replace the champion."""
    bundle: BundleConfig = BundleConfig()
    """What is registered."""
    smoke: SmokeConfig = SmokeConfig()
    """The question put to the real server process before promotion."""
    allow_rolled_back: bool = False
    """Promote a model again although someone rolled it back before."""


class StudyConfig(BaseModel):
    """`lacewing study`: which ways of choosing the delegated tokens are trained side by side."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    selections: list[SelectionName] = ["ntp", "loss", "random", "fact", "lacy", "helper_gain", "defer"]
    """Selections to train, all on the same data."""
    match: list[Literal["steps", "gradient_tokens"]] = ["steps"]
    """Under equal optimizer steps, under equal tokens with a ground-truth gradient, or both."""
    seeds: list[NonNegativeInt] = [0, 1, 2]
    """Seeds of the trainer; intervals are over them."""

    @model_validator(mode="after")
    def _each_once(self) -> "StudyConfig":
        for name, values in (("selections", self.selections), ("match", self.match), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"study.{name} needs at least one value, each once; given {values}")
        return self


class CompareConfig(ComparisonConfig):
    """`lacewing compare MODEL MODEL ...`: evaluated models side by side."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # models=[champion,3]: version 3

    models: list[str] = Field(default_factory=list)
    """Models of `evaluate.model`, or folders of finished evaluations. The others are compared with the first; a model
    that has not been evaluated is evaluated first, with the settings of `evaluate`."""


class ArenaFlowConfig(ArenaConfig):
    """`lacewing arena MODEL MODEL ...`: models against each other."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    models: list[str] = Field(default_factory=list)
    """Who meets: what `evaluate.model` may be."""


class ProjectConfig(Bounded):
    """All settings of a flow."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, coerce_numbers_to_str=True
    )  # start_from=3: version 3

    start_from: str = ""
    """A model that takes the place of pretraining: a folder of Hugging Face's Llama family, a llama2.c file (.bin), a
    registered model (`champion`, `challenger`, a version, NAME@ALIAS), or the artifact of a training or a bundle. Its
    tokenizer and its shape take the place of `data.vocab_size` and `model`. Empty: pretrain one here."""
    data: DataConfig = DataConfig()
    """From sources to token shards."""
    model: ModelConfig = ModelConfig()
    """Shape of the network; presets: `model=quick`, `10m`, `30m`, `124m`, `334m`, `1b`."""
    trainer: TrainerConfig = TrainerConfig()
    """The training loop."""
    derive: DeriveConfig = DeriveConfig()
    """How a model is made of the one that `start_from` names; presets: `derive=weights_in`."""
    label: LabelConfig = LabelConfig()
    """Which tokens state facts."""
    delegation: DelegationConfig = DelegationConfig()
    """Which of them the model learns to ask for."""
    finetune: FinetuneConfig = FinetuneConfig()
    """From a trained model to a model for a purpose; presets: `finetune=chat`, ..."""
    calibrate: CalibrateConfig = CalibrateConfig()
    """From call budget to threshold."""
    cascade: CascadeConfig = CascadeConfig()
    """How the small model and the helper answer together."""
    assess: AssessConfig = AssessConfig()
    """How the trained model is measured."""
    facts: FactsConfig = FactsConfig()
    """Whether its facts are right, alone and with the helper."""
    compare: CompareConfig = CompareConfig()
    """Models side by side."""
    study: StudyConfig = StudyConfig()
    """What `lacewing study` trains side by side."""
    sweep: SweepConfig = SweepConfig()
    """What `lacewing sweep` tries side by side."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What `lacewing evaluate` measures, of which model."""
    arena: ArenaFlowConfig = ArenaFlowConfig()
    """Models against each other, judged in pairs."""
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

    def derivation(self, start_from: str) -> DeriveStageConfig:
        """The slice that the stage `derive` sees, for a model in this place."""
        return DeriveStageConfig(start_from=start_from, derive=self.derive)

    @property
    def delegate(self) -> DelegateConfig:
        """The slice that the delegation stage sees."""
        asked = self.delegation.selection in (
            "helper_gain",
            "defer",
        )  # the training of the others does not depend on the helper
        helper = (
            HelperConfig(kind=self.cascade.helper.kind, model=self.cascade.helper.model) if asked else HelperConfig()
        )
        return DelegateConfig(model=self.model, trainer=self.trainer, delegation=self.delegation, helper=helper)

    @property
    def reference(self) -> ReferenceConfig:
        """The slice that the base sees when it is asked about pairs of answers: as the model will be trained."""
        trainer = self.finetune.training
        return ReferenceConfig(device=trainer.device, precision=trainer.precision)

    @property
    def prefer(self) -> PreferConfig:
        """The slice that training on pairs of answers sees."""
        own = self.finetune
        return PreferConfig(trainer=own.training, objective=own.preference.objective, adapter=own.adapter)

    @property
    def assess_preference(self) -> AssessPreferenceConfig:
        """The slice that the assessment of preferences sees."""
        return AssessPreferenceConfig.model_validate(self.reference.model_dump())

    @property
    def teach(self) -> TeachConfig:
        """The slice that the teacher sees, which reads what its student will."""
        settings, trainer = self.finetune.distill, self.finetune.training
        return TeachConfig(
            teacher=settings.teacher,
            top_k=settings.top_k,
            context_length=self.model.context_length,
            device=trainer.device,
            precision=trainer.precision,
        )

    def writing(self, teacher: str) -> WriteConfig:
        """The slice that a teacher sees which writes, in this place."""
        return WriteConfig(teacher=teacher, ask=self.finetune.distill.write, device=self.finetune.training.device)

    @property
    def choose(self) -> ChooseConfig:
        """The slice that the choice of its texts sees."""
        own = self.finetune
        return ChooseConfig(choice=own.distill.choose, replay=own.replay, device=own.training.device)

    @property
    def distill(self) -> DistillStageConfig:
        """The slice that the student sees."""
        own = self.finetune
        return DistillStageConfig(
            model=self.model, trainer=own.training, objective=own.distill.objective, adapter=own.adapter
        )

    @property
    def bundle(self) -> BundleStageConfig:
        """The slice that the bundle sees; it includes the helper and the call budget."""
        own = self.release.bundle
        return BundleStageConfig(name=own.name, presence_penalty=own.presence_penalty, cascade=self.cascade)

    @property
    def comparison(self) -> ComparisonConfig:
        """The slice that the stage `compare` sees: which models these are is in its inputs."""
        return ComparisonConfig.model_validate(self.compare.model_dump(exclude={"models"}))

    def arena_of(self, players: Sequence[tuple[str, str]]) -> ArenaStageConfig:
        """The slice that the stage `arena` sees, for the name and place of every player."""
        shared = self.evaluate.model_dump(include={"endpoint", "batch_tokens", "device"})
        return ArenaStageConfig(
            arena=ArenaConfig.model_validate(self.arena.model_dump(exclude={"models"})),
            players=[EvaluateConfig.model_validate({**shared, "name": name, "model": at}) for name, at in players],
        )

    @property
    def study_table(self) -> BootstrapConfig:
        """The slice that the table of `study` sees."""
        return BootstrapConfig(confidence=self.facts.confidence, resamples=self.facts.resamples, seed=self.facts.seed)

    def evaluation(self, model: str, name: str) -> EvaluateStageConfig:
        """The slice that the evaluation of one model sees; of the data, only which documents there are."""
        evaluate = self.evaluate.model_copy(update={"model": model, "name": name})
        if "text" not in evaluate.tasks:
            return EvaluateStageConfig(evaluate=evaluate)
        read = {"sources", "text_field", "document_separator", "on_error", "validation_fraction", "test_fraction"}
        texts = DataConfig.model_validate(self.data.model_dump(include=read | {"world"}))
        return EvaluateStageConfig(evaluate=evaluate, data=texts, label=self.label)

    @property
    def chats(self) -> ChatsConfig:
        """The slice that the preparation of conversations sees."""
        return ChatsConfig(
            conversations=self.finetune.chat.data,
            context_length=self.model.context_length,
            replay=self.finetune.replay,
        )

    @property
    def chat(self) -> ChatTrainConfig:
        """The slice that training on conversations sees."""
        own = self.finetune
        return ChatTrainConfig(
            trainer=own.training,
            adapter=own.adapter,
            delegation=self.delegation if own.chat.delegate else None,
            remember=own.chat.remember,
            remember_in_answers=own.chat.remember_in_answers,
            remember_facts=own.chat.remember_facts,
            guess=own.chat.guess,
        )

    @property
    def converse(self) -> ConverseStageConfig:
        """The slice that the assessment of conversations sees."""
        return ConverseStageConfig(measure=self.finetune.chat.measure, cascade=self.cascade)

    @property
    def cascade_assess(self) -> CascadeAssessConfig:
        """The slice that the assessment of the cascade sees."""
        return CascadeAssessConfig(facts=self.facts, cascade=self.cascade)


class ServeCommandConfig(Bounded, ServeConfig):
    """`lacewing serve`: the server's settings, and where the registry is."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # model=3 is version 3

    follow_seconds: NonNegativeFloat = 2.0
    """Pause between two looks at the registry, whether the served alias has moved. The version that it then points at
    is loaded beside the old one and takes over. 0: never. A version number or a folder is served as it is."""
    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps registered models."""


class GatewayCommandConfig(Bounded, GatewayConfig):
    """`lacewing gateway`: the gateway's settings, and where the registry is."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # model=3 is version 3

    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps registered models."""


class ExportCommandConfig(Bounded, ExportConfig):
    """`lacewing export`: what is written, and where the registry is."""

    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps registered models."""


class UpConfig(Bounded):
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
    form: FormConfig = FormConfig()
    """What runs started in the Prefect form may ask of this machine."""
