"""A stage is run once per key; every other time the flow says why not, or why again."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from prefect import flow

from components.core.artifact import RECORD, Artifact
from components.core.errors import InputError
from components.core.record_digest import RECORD_DIGEST
from components.training.config import TrainerConfig
from conf.schema import ProjectConfig
from conf.services import TrackingConfig
from flows.adapters.mlflow_runs import FlowTracker
from flows.launcher import LocalLauncher, StageFailedError
from flows.run import FlowRun, Stage
from flows.stage import StageExecutor, readable
from flows.workspace import make_workspace
from tests.core.probe_stage import ProbeConfig

PROBE = Stage("probe", "tests.core.probe_stage:stage")


def new_run() -> FlowRun:
    make_workspace()
    executor = StageExecutor(LocalLauncher(), FlowTracker(TrackingConfig(), "test"))
    return FlowRun("test", "world", [], ProjectConfig(), executor)


def run_probe(config: ProbeConfig, earlier: Artifact | None = None, stage: Stage = PROBE) -> FlowRun:
    """One flow with one stage."""
    run = new_run()

    @flow(name="probe")
    def probe() -> None:
        run.stage(stage, config, earlier=earlier)

    probe()
    return run


def test_same_key_and_intact_files_are_skipped(workspace: Path) -> None:
    first = run_probe(ProbeConfig()).outcomes["probe"]
    second = run_probe(ProbeConfig()).outcomes["probe"]
    assert (first.status, first.reason) == ("ran", "first run")
    assert (second.status, second.artifact.key) == ("skipped", first.artifact.key)
    assert second.artifact.folder.is_relative_to(workspace)


def test_a_changed_setting_runs_again_and_is_named(workspace: Path) -> None:
    run_probe(ProbeConfig(text="one"))
    outcome = run_probe(ProbeConfig(text="two")).outcomes["probe"]
    assert (outcome.status, outcome.reason) == ("ran", "text one -> two")
    assert run_probe(ProbeConfig(text="one")).outcomes["probe"].status == "skipped"


def test_a_changed_input_runs_again_and_is_named(workspace: Path) -> None:
    one, two = (run_probe(ProbeConfig(text=text)).outcomes["probe"].artifact for text in ("one", "two"))
    later = Stage("later", PROBE.function)
    run_probe(ProbeConfig(), earlier=one, stage=later)
    outcome = run_probe(ProbeConfig(), earlier=two, stage=later).outcomes["later"]
    assert (outcome.status, outcome.reason) == ("ran", "input changed: earlier")
    assert outcome.artifact.path("text.txt").read_text() == "hellotwo"


def test_an_input_that_was_made_again_with_equal_bytes_stops_the_rerun_there(workspace: Path) -> None:
    one = run_probe(ProbeConfig(text="same")).outcomes["probe"].artifact
    again = run_probe(ProbeConfig(text="same"), stage=Stage("other", PROBE.function)).outcomes["other"].artifact
    later = Stage("later", PROBE.function)
    run_probe(ProbeConfig(), earlier=one, stage=later)
    assert one.key != again.key
    assert run_probe(ProbeConfig(), earlier=again, stage=later).outcomes["later"].status == "skipped"


@pytest.mark.parametrize("damage", ["altered", "missing", "truncated"])
def test_a_damaged_output_is_made_again(workspace: Path, damage: str) -> None:
    path = run_probe(ProbeConfig()).outcomes["probe"].artifact.path("text.txt")
    match damage:
        case "altered":
            path.write_text("hellO")
        case "missing":
            path.unlink()
        case "truncated":
            path.write_text("hell")
    outcome = run_probe(ProbeConfig()).outcomes["probe"]
    assert outcome.status == "ran"
    assert "damaged: text.txt" in outcome.reason
    assert path.read_text() == "hello"


def test_an_edited_metric_is_noticed_and_measured_again(workspace: Path) -> None:
    artifact = run_probe(ProbeConfig()).outcomes["probe"].artifact
    measured = artifact.metrics
    record = json.loads((artifact.folder / RECORD).read_text())
    record["metrics"] = dict.fromkeys(measured, 0.125)
    (artifact.folder / RECORD).write_text(json.dumps(record))
    outcome = run_probe(ProbeConfig()).outcomes["probe"]
    assert outcome.status == "ran"
    assert f"damaged: {RECORD} was altered" in outcome.reason
    assert outcome.artifact.metrics == measured


def test_an_artifact_of_before_digests_is_skipped_and_gets_one_unless_its_record_is_of_something_else(
    workspace: Path,
) -> None:
    artifact = run_probe(ProbeConfig(text="one")).outcomes["probe"].artifact
    digest = artifact.folder / RECORD_DIGEST
    kept = digest.read_bytes()
    digest.unlink()
    assert run_probe(ProbeConfig(text="one")).outcomes["probe"].status == "skipped"
    assert digest.read_bytes() == kept
    digest.unlink()
    record = (artifact.folder / RECORD).read_text()
    (artifact.folder / RECORD).write_text(record.replace('"text": "one"', '"text": "two"'))
    outcome = run_probe(ProbeConfig(text="one")).outcomes["probe"]
    assert outcome.status == "ran"
    assert "text two -> one" in outcome.reason


def test_an_error_of_the_stage_keeps_its_kind_and_is_not_retried(workspace: Path) -> None:
    with pytest.raises(InputError, match="probe: the corpus is empty"):
        run_probe(ProbeConfig(end="input error"))
    events = next(workspace.glob("artifacts/probe/*/events.jsonl")).read_text()
    assert events.count('"loss"') == 1


def test_a_bug_brings_its_traceback(workspace: Path) -> None:
    with pytest.raises(StageFailedError, match="ZeroDivisionError: one over none"):
        run_probe(ProbeConfig(end="bug"))


def test_a_killed_stage_is_tried_again_from_its_checkpoint(workspace: Path) -> None:
    outcome = run_probe(ProbeConfig(end="killed once")).outcomes["probe"]
    assert outcome.status == "ran"
    assert outcome.reason == "an earlier run was interrupted; resuming from its checkpoint"


def test_two_flows_with_the_same_key_make_it_once(workspace: Path) -> None:
    runs: list[FlowRun] = []
    threads = [threading.Thread(target=lambda: runs.append(run_probe(ProbeConfig()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.outcomes["probe"].status for run in runs) == ["ran", "skipped"]


def test_a_flow_that_only_uses_a_stage_names_the_command_that_makes_it(workspace: Path) -> None:
    run = new_run()
    run.overrides = ["text=two words"]

    @flow(name="probe")
    def probe() -> None:
        with run.only_using("train"):
            run.stage(PROBE, ProbeConfig())

    with pytest.raises(
        InputError, match=r"probe is not up to date \(first run\): run `lacewing train 'text=two words'`"
    ):
        probe()
    assert not list(workspace.glob("artifacts/probe/*/artifact.json"))
    run_probe(ProbeConfig())
    probe()
    assert run.outcomes["probe"].status == "skipped"


def test_a_stopped_flow_stops_its_stage(workspace: Path) -> None:
    program = (
        "from flows.cli import end_in_order_on_sigterm\n"
        "from tests.flows.test_stage import run_probe, ProbeConfig\n"
        "end_in_order_on_sigterm()\n"
        "run_probe(ProbeConfig(end='sleeps'))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 90
        while not list(workspace.glob("artifacts/probe/*/events.jsonl")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        below = [*children(process.pid, "components.core.worker"), *children(process.pid, "prefect.server")]
        assert len(below) == 2
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        assert process.returncode != 0
        assert [pid for pid in below if psutil.pid_exists(pid)] == []
    finally:
        process.kill()


def children(pid: int, words: str) -> list[int]:
    """Processes below ``pid`` whose command line holds ``words``."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True) if words in " ".join(child.cmdline())]


def test_variants_of_one_stage_keep_apart_in_a_flow(workspace: Path) -> None:
    run = new_run()
    other = ProjectConfig().model_copy(update={"trainer": TrainerConfig(seed=1)})

    @flow(name="probes")
    def probes() -> None:
        for name, config in (("seed-0", run.config), ("seed-1", other)):
            with run.varied(name, config):
                run.stage(PROBE, ProbeConfig(text=f"seed {run.config.trainer.seed}"))

    probes()
    assert run.config.trainer.seed == 0
    texts = {name: outcome.artifact.path("text.txt").read_text() for name, outcome in run.outcomes.items()}
    assert texts == {"probe seed-0": "seed 0", "probe seed-1": "seed 1"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1967808.0, "1,967,808"),
        (1.21459e12, "1,214,590,000,000"),
        (3003.3237, "3,003"),
        (0.0009119, "0.0009119"),
        (2.788455, "2.788"),
        (float("nan"), "nan"),
        (True, "True"),
        ("1e6 tokens", "1e6 tokens"),
    ],
)
def test_numbers_are_shown_as_people_write_them(value: str | float | bool, shown: str) -> None:
    assert readable(value) == shown
