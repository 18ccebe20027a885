"""The flow ``evaluate``: what its words mean, whom it finds, and when it has nothing to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.errors import InputError
from conf.compose import compose_project
from conf.services import TrackingConfig
from flows.catalogue import find_flow
from flows.evaluation import find_subject
from flows.execution import plan
from flows.promotion import Registry
from flows.run import FlowRun

MakeArtifact = Callable[..., Artifact]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder that is no artifact."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "A text."}) + "\n")
    return str(path)


def planned(*overrides: str) -> FlowRun:
    return plan(find_flow("evaluate"), "world", list(overrides))


def key(*overrides: str) -> str:
    return planned(*overrides).outcomes["evaluate"].artifact.key


def test_its_own_keys_need_no_section_and_others_keep_theirs() -> None:
    flow = find_flow("evaluate")
    given = ["model=10m", "tasks=[text]", "text.max_bytes=5", "model.layers=2", "data.sources=[pydoc]", "name=a"]
    assert flow.qualified(given) == [
        "evaluate.model=10m",
        "evaluate.tasks=[text]",
        "evaluate.text.max_bytes=5",
        "model.layers=2",
        "data.sources=[pydoc]",
        "evaluate.name=a",
    ]
    assert flow.qualified(flow.qualified(given)) == flow.qualified(given)
    assert find_flow("pretrain").qualified(given) == given


def test_an_unknown_key_is_refused_as_ever() -> None:
    with pytest.raises(InputError, match=r"unknown key 'evaluate\.taks'.*evaluate\.tasks"):
        compose_project("world", find_flow("evaluate").qualified(["evaluate.taks=[text]"]))
    with pytest.raises(InputError, match="not allowed"):
        compose_project("world", find_flow("evaluate").qualified(["+model=x"]))


@pytest.mark.parametrize(
    "model", ["champion", "3", "lacewing@champion", "/a/folder", "'http://127.0.0.1:8000/v1#name'", "./a"]
)
def test_a_model_can_be_written_as_people_write_it(model: str) -> None:
    config = compose_project("world", find_flow("evaluate").qualified([f"model={model}"]))
    assert config.evaluate.model == model.strip("'")


def test_a_folder_and_own_text_need_nothing_else(workspace: Path, foreign: Path, texts: str) -> None:
    run = planned(f"model={foreign}", "tasks=[text]", f"data.sources=[{texts}]")
    assert list(run.outcomes) == ["evaluate"]
    assert run.outcomes["evaluate"].reason == "first run"
    assert not workspace.exists()


def test_the_key_changes_with_the_model_the_text_and_nothing_else(foreign: Path, texts: str) -> None:
    given = f"model={foreign}", f"data.sources=[{texts}]"
    before = key(*given)
    assert key(*given, "data.vocab_size=4096", "trainer.seed=7") == before
    assert key(*given, "text.max_bytes=5") != before
    (foreign / "model.safetensors").write_text("w")
    with_weights = key(*given)
    assert with_weights != before
    Path(texts).write_text(json.dumps({"text": "Another text."}) + "\n")
    assert key(*given) != with_weights


def test_a_missing_text_is_told_at_once(foreign: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        planned(f"model={foreign}", "data.sources=[/no/such.jsonl]")


def test_an_address_is_asked_as_it_is() -> None:
    subject = find_subject("http://127.0.0.1:8000/v1#tiny", TrackingConfig())
    assert (subject.name, subject.place) == ("tiny", "http://127.0.0.1:8000/v1#tiny")
    assert find_subject("http://127.0.0.1:8000/v1", TrackingConfig()).place == "http://127.0.0.1:8000/v1"


def test_an_artifact_is_an_input_under_a_name_of_its_own(
    make_bundle: Callable[[str], Artifact], model: Artifact, data: Artifact
) -> None:
    bundles = [make_bundle("a"), make_bundle("b")]
    subjects = [find_subject(str(each.folder), TrackingConfig()) for each in (*bundles, model)]
    assert [each.artifact for each in subjects] == [*bundles, model]
    assert len({each.name for each in subjects}) == 3
    with pytest.raises(InputError, match="of the stage 'prepare', which holds no model: give one of bundle"):
        find_subject(str(data.folder), TrackingConfig())


def test_a_registered_model_is_found_by_alias_version_and_name(
    database: Path, make_bundle: Callable[[str], Artifact]
) -> None:
    registry = Registry(TrackingConfig())
    version = registry.register(make_bundle("a"))
    registry.promote(version.number, "first")
    for reference in ("champion", "1", "lacewing@champion", "lacewing@1"):
        subject = find_subject(reference, TrackingConfig())
        assert subject.name == "lacewing 1"
        assert subject.artifact is not None
        assert subject.artifact.key == version.key
    with pytest.raises(InputError, match="has no '7' of the model 'lacewing'"):
        find_subject("7", TrackingConfig())
    with pytest.raises(InputError, match="neither 'champion', 'challenger', the number of a version nor a folder"):
        find_subject("champoin", TrackingConfig())


def test_robustness_asks_about_a_closed_world_or_about_files(workspace: Path, foreign: Path) -> None:
    assert list(planned(f"model={foreign}", "tasks=[robustness.typos]").outcomes) == ["prepare", "evaluate"]
    asked = planned(f"model={foreign}", "tasks=[robustness.typos]", "robustness.files=[questions.jsonl]")
    assert list(asked.outcomes) == ["evaluate"]
