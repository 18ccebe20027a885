"""Distillation as the flow runs it: a server, a folder or a trained model writes, and a student learns it."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.run import Run
from components.core.worker import open_inputs
from components.data.split import TRAIN
from components.finetune.distill.artifact import ChosenTexts, TeacherTexts
from components.model.config import ModelConfig
from components.pretrain import stage as pretrain
from components.training.config import PretrainConfig, TrainerConfig
from components.training.trained import TrainedModel
from conf.compose import compose_project
from flows.finetuning import distill
from flows.finetuning.base import Base
from flows.finetuning.distill import finetune_distill
from flows.run import FlowRun, Outcome, StageCall
from flows.stage import contents_of, identity_of
from tests.clients.server import Server
from tests.training.conftest import prepare

MODEL = ModelConfig(layers=1, width=16, hidden_width=32, heads=1, kv_heads=1, context_length=32)
TRAINER = TrainerConfig(
    max_steps=2, batch_size=4, micro_batch_size=4, threads=1, precision="32-true", optimizer="adamw"
)
SMALL = [
    "finetune=distill",
    "finetune.distill.text=written",
    "finetune.distill.write.prompts=20",
    "finetune.distill.write.prompt_tokens=6",
    "finetune.distill.write.max_tokens=12",
]


class Here:
    """A ``StageRunner`` that runs every stage in this process, and remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: dict[str, StageCall] = {}

    def bring_up_to_date(self, call: StageCall) -> Outcome:
        self.calls[call.title] = call
        module, _, name = call.stage.function.partition(":")
        function = getattr(import_module(module), name)
        inputs = open_inputs(function, {name: each.folder for name, each in call.inputs.items()})
        made = function(Run.local(self.folder / call.title, call.stage.name), call.config, **inputs)
        return Outcome(made, "ran", "", 0.0)

    def key(self, title: str) -> str:
        """That of the stage for its inputs, as far as they were made here."""
        call = self.calls[title]
        return identity_of(call, contents_of(call.inputs)).key


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    prepared = prepare(tmp_path_factory.mktemp("prepared"))
    run = Run.local(tmp_path_factory.mktemp("pretrain"), "pretrain")
    model = pretrain(run, PretrainConfig(model=MODEL, trainer=TRAINER), prepared=prepared)
    return Base(prepared, prepared, model)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def versioned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages whose bytes would go to DVC."""
    found: list[str] = []
    monkeypatch.setattr(distill.dvc, "ensure_versioned", lambda artifact, settings: found.append(artifact.stage))
    return found


def run_of(folder: Path, teacher: str, *overrides: str) -> FlowRun:
    config = compose_project("world", [*SMALL, f"finetune.distill.teacher='{teacher}'", *overrides])
    training = config.finetune.model_copy(update={"training": TRAINER})
    return FlowRun(
        "finetune", "world", [], config.model_copy(update={"model": MODEL, "finetune": training}), Here(folder)
    )


def student(folder: Path, base: Base, teacher: str, *overrides: str) -> tuple[Artifact, Here]:
    run = run_of(folder, teacher, *overrides)
    made = finetune_distill(run, base)
    assert isinstance(run.runner, Here)
    return made, run.runner


def test_a_student_learns_what_a_server_writes(
    tmp_path: Path, base: Base, server: Server, versioned: list[str]
) -> None:
    made, runner = student(tmp_path, base, f"{server.url}#large", "finetune.distill.start=scratch")
    assert list(runner.calls) == ["write", "choose", "distill"]
    assert versioned == ["write"]  # what may have been paid for
    assert TrainedModel.open(made.folder).tokens_seen == 2 * 4 * 32
    assert "base" not in runner.calls["distill"].inputs
    chosen = ChosenTexts.open(runner.calls["distill"].inputs["chosen"].folder)
    assert TeacherTexts.open(runner.calls["choose"].inputs["texts"].folder).metrics["texts"] == 20
    assert all(text.endswith(" Brackwater, where") for text in chosen.texts(TRAIN, range(3)))


def test_other_words_of_the_same_server_are_other_content(tmp_path: Path, base: Base, server: Server) -> None:
    _, once = student(tmp_path / "once", base, server.url)
    server.complete = lambda prompt: " and nothing more."
    _, later = student(tmp_path / "later", base, server.url)
    assert once.key("write") == later.key("write")  # kept, and never asked for again
    assert once.key("choose") != later.key("choose")
    assert once.key("distill") != later.key("distill")


def test_a_trained_model_or_its_folder_writes(tmp_path: Path, base: Base) -> None:
    _, trained = student(tmp_path / "trained", base, str(base.model.folder), "finetune.distill.choose.need=0.5")
    assert trained.calls["write"].inputs["trained"].folder == base.model.folder
    assert trained.calls["choose"].inputs["base"].folder == base.model.folder
    folder = TrainedModel.open(base.model.folder).model_folder
    _, plain = student(tmp_path / "plain", base, str(folder))
    assert list(plain.calls["write"].sources) == ["finetune.distill.teacher"]
    assert "base" not in plain.calls["choose"].inputs  # nobody asks what it needs
    texts = [TeacherTexts.open(each.calls["choose"].inputs["texts"].folder).texts() for each in (trained, plain)]
    assert texts[0] == texts[1]


def test_a_teacher_must_be_named(tmp_path: Path, base: Base) -> None:
    with pytest.raises(InputError, match=r"finetune\.distill\.teacher names no model"):
        student(tmp_path, base, "")
