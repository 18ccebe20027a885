"""``start_from``: what it may name, what it decides, and what it takes the place of."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, InputError
from components.data.special_tokens import SpecialTokens
from components.model.config import ModelConfig
from components.model.llama_config import hugging_face_config
from conf.compose import compose_project
from conf.schema import ProjectConfig
from conf.services import TrackingConfig
from flows import named_models
from flows.catalogue import find_flow
from flows.execution import plan
from flows.run import FlowRun
from flows.start import started
from tests.derive.llama2c_files import write_files
from tests.fakes import SPECIAL

MakeArtifact = Callable[..., Artifact]
SHAPE = ModelConfig(name="theirs", layers=3, width=24, hidden_width=40, heads=3, kv_heads=1, context_length=64)


def _config(special: SpecialTokens = SPECIAL, **values: object) -> str:
    return json.dumps({**hugging_face_config(SHAPE, 384, special), **values})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As far as a flow looks into it before a stage runs."""
    path = tmp_path / "theirs"
    path.mkdir()
    (path / "config.json").write_text(_config())
    return path


def _started(place: object, *overrides: str) -> ProjectConfig:
    given = [f"start_from={place}", *overrides]
    return started(compose_project("world", given), given)


def _planned(flow: str, *overrides: str) -> FlowRun:
    return plan(find_flow(flow), "world", list(overrides))


def test_without_it_nothing_changes() -> None:
    assert started(ProjectConfig(), ["model.layers=3"]) == ProjectConfig()


def test_the_shape_is_that_of_the_folder(folder: Path) -> None:
    assert _started(folder).model == SHAPE
    assert _started(folder).start_from == str(folder)
    assert _started(folder, "derive.context_length=32").model.context_length == 32


def test_the_shape_of_a_llama2c_file_is_in_its_header(tmp_path: Path) -> None:
    found = _started(write_files(tmp_path), "derive.context_length=16").model
    assert (found.name, found.width, found.layers, found.context_length) == ("model", 16, 2, 16)


@pytest.mark.parametrize("override", ["model=10m", "model.layers=3", "data.vocab_size=640"])
def test_settings_that_the_model_decides_are_refused_beside_it(override: str, folder: Path) -> None:
    with pytest.raises(InputError, match=rf"leave out {override.partition('=')[0]}"):
        _started(folder, override)


def test_a_delegated_model_is_made_of_it_with_its_tokenizer_and_nothing_is_pretrained(
    workspace: Path, folder: Path
) -> None:
    run = _planned("delegate", f"start_from={folder}")
    assert list(run.outcomes) == ["derive", "prepare", "label", "delegate", "calibrate", "cascade"]
    inputs = {name: outcome.artifact.record.identity.inputs for name, outcome in run.outcomes.items()}
    assert {"base", "pretrained"} & (inputs["prepare"].keys() | inputs["delegate"].keys()) == {"base", "pretrained"}
    assert run.outcomes["delegate"].artifact.record.identity.config["model"]["layers"] == 3
    assert not workspace.exists()


def test_the_key_of_derive_follows_the_files(workspace: Path, folder: Path) -> None:
    before = _planned("derive", f"start_from={folder}").outcomes["derive"].artifact.key
    assert _planned("derive", f"start_from={folder}").outcomes["derive"].artifact.key == before
    assert _planned("derive", f"start_from={folder}", "seed=1").outcomes["derive"].artifact.key != before
    (folder / "config.json").write_text(_config(rms_norm_eps=1e-6))
    assert _planned("derive", f"start_from={folder}").outcomes["derive"].artifact.key != before


def test_a_training_of_this_platform_is_taken_over(make_artifact: MakeArtifact) -> None:
    trained = make_artifact("pretrain", {"model/config.json": _config(), "history.jsonl": ""})
    run = _planned("pretrain", f"start_from={trained.folder}")
    assert list(run.outcomes) == ["prepare"]
    assert run.outcomes["prepare"].artifact.record.identity.inputs["base"] == trained.content
    assert run.config.model == SHAPE
    with pytest.raises(InputError, match=r"taken over as it is: leave out derive\.context_length"):
        _planned("pretrain", f"start_from={trained.folder}", "derive.context_length=32")


def test_of_a_bundle_a_model_is_derived(make_artifact: MakeArtifact) -> None:
    bundle = make_artifact("bundle", {"config.json": _config()}, details={"name": "small", "training_tokens": 9})
    run = _planned("derive", f"start_from={bundle.folder}")
    assert run.outcomes["derive"].artifact.record.identity.inputs == {"bundle": bundle.content}
    assert run.outcomes["derive"].artifact.record.identity.config["start_from"] == ""


@pytest.mark.parametrize(
    ("reference", "model", "version"), [("champion", "lacewing", "champion"), ("own@3", "own", "3")]
)
def test_a_registered_model_is_asked_of_the_registry(
    reference: str, model: str, version: str, make_artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_artifact("bundle", {"config.json": _config()})
    asked = []

    class Known:
        def __init__(self, cfg: TrackingConfig) -> None:
            asked.append(cfg.registered_model)

        def resolve(self, reference: str) -> Artifact:
            asked.append(reference)
            return bundle

    monkeypatch.setattr(named_models, "Registry", Known)
    assert _started(reference).start_from == str(bundle.folder)
    assert asked == [model, version]


def test_what_is_no_model_is_refused_in_words(tmp_path: Path, folder: Path, make_artifact: MakeArtifact) -> None:
    with pytest.raises(InputError, match=r"is no folder, no llama2\.c file and no registered model"):
        _started("nowhere")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(InputError, match=r"is a file: give a folder, or a llama2\.c file, which ends in \.bin"):
        _started(tmp_path / "model.gguf")
    (tmp_path / "short.bin").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="begins with a header"):
        _started(tmp_path / "short.bin")
    (folder / "config.json").write_text(_config(model_type="qwen2"))
    with pytest.raises(ArtifactError, match="model_type is 'qwen2'"):
        _started(folder)
    labels = make_artifact("label", {"config.json": _config()})
    with pytest.raises(InputError, match="an artifact of the stage 'label', which holds no model"):
        _planned("derive", f"start_from={labels.folder}")
    with pytest.raises(InputError, match="there is nothing to derive from"):
        _planned("derive")
