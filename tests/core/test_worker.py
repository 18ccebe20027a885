"""A stage in a process of its own: JSON in, events and artifact out, errors by name."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.errors import ArtifactError
from components.core.identity import Identity
from components.core.parent import FOLLOW_PARENT
from components.core.run import EVENTS, Run
from components.core.worker import ERROR, Request, open_inputs, write_request
from tests.core.probe_stage import Probe, ProbeConfig, stage


def requested(folder: Path, config: ProbeConfig, **inputs: Path) -> list[str]:
    folder.mkdir()
    identity = Identity(stage="probe", key="1" * 32, config=config.model_dump(), inputs={}, code={}, environment={})
    request = Request(
        function="tests.core.probe_stage:stage",
        config_type="tests.core.probe_stage:ProbeConfig",
        config=config.model_dump(),
        inputs=inputs,
        identity=identity,
    )
    write_request(folder, request)
    return [sys.executable, "-m", "components.core.worker", str(folder)]


def test_a_stage_leaves_an_artifact_and_its_events(tmp_path: Path) -> None:
    command = requested(tmp_path / "run", ProbeConfig(text="Łódź"))
    assert subprocess.run(command, timeout=60).returncode == 0
    artifact = Artifact.open(tmp_path / "run").verify()
    assert (artifact.details, artifact.metrics) == ({"text": "Łódź"}, {"letters": 4.0})
    events = [json.loads(line) for line in (tmp_path / "run" / EVENTS).read_text().splitlines()]
    assert events[0]["metrics"] == {"loss": 2.0}
    assert (events[1]["progress"], events[1]["message"]) == (0.5, "half way")
    assert artifact.record.rows == [("Letters", "4")]
    assert EVENTS not in artifact.record.files


def sealed(folder: Path, stage: str) -> Path:
    run = Run.local(folder, stage)
    (folder / "text.txt").write_text(f"by {stage}")
    return run.seal({}).folder


def test_inputs_cross_by_name_and_are_opened_as_the_stage_declares_them(tmp_path: Path) -> None:
    earlier, other = sealed(tmp_path / "earlier", "probe"), sealed(tmp_path / "other", "prepare")
    command = requested(tmp_path / "run", ProbeConfig(), earlier=earlier, **{"lacy-0": other})
    assert subprocess.run(command, timeout=60).returncode == 0
    assert Probe.open(tmp_path / "run").text() == "helloby probelacy-0"
    opened = open_inputs(stage, {"lacy-0": other, "earlier": earlier})
    assert {name: type(artifact) for name, artifact in opened.items()} == {"lacy-0": Artifact, "earlier": Probe}


def test_an_input_of_another_stage_is_refused_by_name(tmp_path: Path) -> None:
    command = requested(tmp_path / "run", ProbeConfig(), earlier=sealed(tmp_path / "labels", "label"))
    assert subprocess.run(command, timeout=60).returncode == ArtifactError.exit_code
    message = json.loads((tmp_path / "run" / ERROR).read_text())["message"]
    assert "made by the stage 'label'" in message
    assert "as Probe: give an artifact of 'probe'" in message


def test_a_name_that_the_stage_does_not_know_is_a_bug(tmp_path: Path) -> None:
    def strict(run: Run, cfg: ProbeConfig, *, earlier: Probe) -> Probe:
        return earlier

    with pytest.raises(TypeError, match=r"\['earlier'\], not \['later'\]"):
        open_inputs(strict, {"later": sealed(tmp_path, "probe")})


@pytest.mark.parametrize(("end", "code", "kind"), [("input error", 2, "InputError"), ("bug", 1, "bug")])
def test_an_error_comes_back_by_name(tmp_path: Path, end: str, code: int, kind: str) -> None:
    command = requested(tmp_path / "run", ProbeConfig(end=end))
    assert subprocess.run(command, timeout=60, stderr=subprocess.PIPE).returncode == code
    error = json.loads((tmp_path / "run" / ERROR).read_text())
    assert error["type"] == kind
    assert ("ZeroDivisionError" in error.get("traceback", "")) == (end == "bug")


def test_a_worker_stops_when_its_flow_is_gone(tmp_path: Path) -> None:
    command = [*requested(tmp_path / "run", ProbeConfig(end="sleeps")), FOLLOW_PARENT]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    while not (tmp_path / "run" / EVENTS).exists():
        time.sleep(0.05)
    assert process.stdin is not None
    process.stdin.close()  # what the kernel does when the flow's process is killed
    assert process.wait(timeout=20) == -signal.SIGTERM
