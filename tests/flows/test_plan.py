"""A dry run says which stages would run and why, also where an input is not known yet."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.identity import Identity
from components.core.run import Run
from conf.schema import ProjectConfig
from flows.plan import Planner
from flows.run import FlowRun, Stage
from flows.workspace import artifact_folder
from tests.core.probe_stage import ProbeConfig

FUNCTION = "tests.core.probe_stage:stage"
FIRST, SECOND = Stage("first", FUNCTION), Stage("second", FUNCTION)


@pytest.fixture
def made(workspace: Path) -> Callable[..., Artifact]:
    """Seal what a stage would have made."""

    def make(stage: Stage, config: ProbeConfig, **inputs: Artifact) -> Artifact:
        contents = {name: artifact.content for name, artifact in inputs.items()}
        identity = Identity.of(stage.name, stage.function, config, contents)
        run = Run.recorded(artifact_folder(stage.name, identity.key), identity)
        (run.folder / "text.txt").write_text(config.text)
        return run.seal({}, {})

    return make


def planned(first: ProbeConfig, second: ProbeConfig) -> FlowRun:
    run = FlowRun("test", "world", [], ProjectConfig(), Planner(), dry=True)
    run.stage(SECOND, second, earlier=run.stage(FIRST, first))
    return run


def test_nothing_is_there_yet(workspace: Path) -> None:
    run = planned(ProbeConfig(), ProbeConfig())
    assert [outcome.reason for outcome in run.outcomes.values()] == ["first run", "first run"]
    assert not workspace.exists()


def test_what_is_there_is_up_to_date(made: Callable[..., Artifact]) -> None:
    first = made(FIRST, ProbeConfig())
    second = made(SECOND, ProbeConfig(), earlier=first)
    run = planned(ProbeConfig(), ProbeConfig())
    assert {outcome.status for outcome in run.outcomes.values()} == {"skipped"}
    assert run.outcomes["second"].artifact.key == second.key


def test_a_stage_after_one_that_would_run_says_so(
    made: Callable[..., Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    made(SECOND, ProbeConfig(), earlier=made(FIRST, ProbeConfig()))
    run = planned(ProbeConfig(text="other"), ProbeConfig())
    assert run.outcomes["first"].reason == "text hello -> other"
    assert run.outcomes["second"].reason == "input earlier would be made again"
    assert "second     would run (input earlier would be made again)" in capsys.readouterr().err


def test_its_own_changes_are_named_beside_the_input(made: Callable[..., Artifact]) -> None:
    made(SECOND, ProbeConfig(), earlier=made(FIRST, ProbeConfig()))
    run = planned(ProbeConfig(text="other"), ProbeConfig(text="more"))
    assert run.outcomes["second"].reason == "text hello -> more; input earlier would be made again"


def test_a_flow_that_only_uses_a_stage_names_the_command(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = FlowRun("test", "text", [], ProjectConfig(), Planner(), dry=True)
    with run.only_using("assess"):
        run.stage(FIRST, ProbeConfig())
    said = capsys.readouterr().err
    assert "first      is missing (first run): run `lacewing assess experiment=text` first" in said
