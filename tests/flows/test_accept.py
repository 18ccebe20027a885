"""A person may vouch for an artifact of older code; the record says so, and so does all that is made from it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core import worker
from components.core.acceptance import joined
from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.identity import Identity
from components.core.run import Run
from conf.compose import compose_project
from conf.schema import ProjectConfig
from flows import accept as accepting
from flows.accept import accept
from flows.catalogue import Flow
from flows.plan import Planner
from flows.run import FlowRun, Outcome, Stage, StageCall
from flows.stage import contents_of, identity_of, why_it_must_run
from flows.workspace import artifact_folder
from tests.core.probe_stage import ProbeConfig

FUNCTION = "tests.core.probe_stage:stage"
FIRST, SECOND = Stage("first", FUNCTION), Stage("second", FUNCTION)
REASON = "only a message was reworded"


def two_stages(run: FlowRun) -> None:
    earlier = run.stage(FIRST, ProbeConfig(text="one"))
    run.stage(SECOND, ProbeConfig(text="two"), earlier=earlier)


class MadeBefore:
    """The ``StageRunner`` of an earlier day: the code was another one."""

    def __init__(self, code: str, text: str | None = None) -> None:
        self.code, self.text = code, text

    def bring_up_to_date(self, call: StageCall) -> Outcome:
        config = ProbeConfig(text=self.text) if self.text else call.config
        call = StageCall(call.stage, config, call.inputs, call.sources, call.title)
        now = identity_of(call, contents_of(call.inputs))
        code = {**now.code, **({f"{FUNCTION.replace(':', '.')}": self.code} if self.code else {})}
        identity = Identity.from_parts(
            now.stage, config=now.config, inputs=now.inputs, code=code, environment=now.environment
        )
        run = Run.recorded(artifact_folder(identity.stage, identity.key), identity)
        (run.folder / "text.txt").write_text(f"{call.stage.name} {config}")
        run.log({"loss": 1.0}, 1)
        return Outcome(run.seal({"letters": 3.0}), "ran", "", 0)


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Flow("two_stages", "flows.two", "", "", "", 1, False, "", "", "")
    monkeypatch.setattr(Flow, "__call__", lambda self, run: two_stages(run))
    monkeypatch.setattr(accepting, "flows", lambda: {entry.name: entry})


@pytest.fixture
def made(workspace: Path) -> Callable[[MadeBefore], FlowRun]:
    def run(runner: MadeBefore) -> FlowRun:
        run = FlowRun("two_stages", "world", [], ProjectConfig(), runner)
        two_stages(run)
        return run

    return run


def planned() -> FlowRun:
    run = FlowRun("two_stages", "world", [], compose_project(), Planner(), dry=True)
    two_stages(run)
    return run


def test_an_accepted_artifact_is_current_and_says_who_vouched_for_it(made: Callable[[MadeBefore], FlowRun]) -> None:
    older = made(MadeBefore("older")).outcomes["first"].artifact
    assert planned().outcomes["first"].reason == "code changed: tests.core.probe_stage.stage"
    artifact = accept("first", REASON, "world", [])
    assert planned().outcomes["first"].status == "skipped"
    assert artifact.key != older.key
    assert (artifact.content, artifact.metrics) == (older.content, older.metrics)
    (acceptance,) = artifact.record.accepted
    assert (acceptance.from_key, acceptance.reason) == (older.key, REASON)
    assert acceptance.changes == ["code changed: tests.core.probe_stage.stage"]
    assert REASON in str(acceptance)


def test_files_are_not_stored_twice_and_the_older_artifact_stays(made: Callable[[MadeBefore], FlowRun]) -> None:
    older = made(MadeBefore("older")).outcomes["first"].artifact
    artifact = accept("first", REASON, "world", [])
    assert (artifact.folder / "text.txt").samefile(older.folder / "text.txt")
    assert artifact.fault() is None
    assert older.fault() is None
    assert (artifact.folder / "events.jsonl").exists()  # MLflow gets the curves of the run that made it


def test_what_was_made_from_it_does_not_run_again_and_knows_of_it(made: Callable[[MadeBefore], FlowRun]) -> None:
    made(MadeBefore("older"))
    made(MadeBefore(""))  # ``second`` as today's code makes it from the same bytes
    for outcome in planned().outcomes.values():
        assert outcome.status == "skipped"
    (artifact_folder("first", planned().outcomes["first"].artifact.key) / "artifact.json").unlink()
    accept("first", REASON, "world", [])
    run = planned()
    assert run.outcomes["second"].status == "skipped"
    assert not run.outcomes["second"].artifact.record.accepted
    assert [each.reason for each in joined(*run.accepted.values())] == [REASON]
    assert [each.reason for each in run.accepted[run.outcomes["second"].artifact.key]] == [REASON]


def test_a_stage_that_runs_on_it_writes_it_into_its_record(
    made: Callable[[MadeBefore], FlowRun], tmp_path: Path
) -> None:
    made(MadeBefore("older"))
    artifact = accept("first", REASON, "world", [])
    config = ProbeConfig(text="later")
    request = worker.Request(
        function=FUNCTION,
        config_type="tests.core.probe_stage:ProbeConfig",
        config=config.model_dump(),
        inputs={"other": artifact.folder},
        identity=Identity.of("later", FUNCTION, config, {"other": artifact.content}),
    )
    (tmp_path / "later").mkdir()
    worker.write_request(tmp_path / "later", request)
    assert worker.main(tmp_path / "later") == 0
    assert Artifact.open(tmp_path / "later").record.accepted == artifact.record.accepted


def test_the_newest_fitting_artifact_is_taken(made: Callable[[MadeBefore], FlowRun]) -> None:
    made(MadeBefore("oldest"))
    newer = made(MadeBefore("newer")).outcomes["first"].artifact
    assert accept("first", REASON, "world", []).record.accepted[0].from_key == newer.key


def test_an_artifact_of_another_request_is_refused_with_the_reason(made: Callable[[MadeBefore], FlowRun]) -> None:
    made(MadeBefore("older", text="three"))
    with pytest.raises(InputError, match=r"no artifact of first .*\n  \w{16}: text three -> one"):
        accept("first", REASON, "world", [])


def test_a_damaged_artifact_is_refused(made: Callable[[MadeBefore], FlowRun]) -> None:
    older = made(MadeBefore("older")).outcomes["first"].artifact
    (older.folder / "text.txt").write_text("other")
    with pytest.raises(InputError, match=r"text\.txt"):
        accept("first", REASON, "world", [])


def test_a_record_of_an_older_version_is_passed_over(made: Callable[[MadeBefore], FlowRun]) -> None:
    older = made(MadeBefore("older")).outcomes["first"].artifact
    (older.folder / "artifact.json").write_text("{}")
    with pytest.raises(InputError, match="older version of lacewing"):
        accept("first", REASON, "world", [])


@pytest.mark.parametrize(
    ("stage", "reason", "words"),
    [
        ("first", " ", "say why"),
        ("third", REASON, "no flow plans a stage 'third'"),
        ("second", REASON, "first is not current .*run it, or accept it first"),
    ],
)
def test_what_cannot_be_accepted_is_explained(
    made: Callable[[MadeBefore], FlowRun], stage: str, reason: str, words: str
) -> None:
    if stage == "third":
        made(MadeBefore(""))
    with pytest.raises(InputError, match=words):
        accept(stage, reason, "world", [])


def test_what_is_current_needs_nobody_to_vouch_for_it(made: Callable[[MadeBefore], FlowRun]) -> None:
    made(MadeBefore(""))
    with pytest.raises(InputError, match="nothing to accept"):
        accept("first", REASON, "world", [])


def test_an_interrupted_run_does_not_hinder_an_acceptance(made: Callable[[MadeBefore], FlowRun]) -> None:
    made(MadeBefore("older"))
    folder = artifact_folder("first", planned().outcomes["first"].artifact.key)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last").write_text("half")
    artifact = accept("first", REASON, "world", [])
    assert why_it_must_run(artifact.folder, Identity.of("first", FUNCTION, ProbeConfig(text="one"), {})) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["accept", "pretrain"], "--reason"), (["accept", "--reason", "why"], "name one stage")],
)
def test_the_command_says_what_it_lacks(workspace: Path, arguments: list[str], words: str) -> None:
    program = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert words in done.stderr
