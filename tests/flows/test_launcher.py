"""The local launcher: events while they come, and no more of them than whole lines."""

from pathlib import Path

import pytest

from components.core.artifact import Artifact
from components.core.identity import Identity
from components.core.worker import Request
from flows.launcher import EventFile, LocalLauncher, WorkerKilledError
from tests.core.probe_stage import ProbeConfig


def request(config: ProbeConfig) -> Request:
    return Request(
        function="tests.core.probe_stage:stage",
        config_type="tests.core.probe_stage:ProbeConfig",
        config=config.model_dump(mode="json"),
        inputs={},
        identity=Identity.of("probe", "tests.core.probe_stage:stage", config, {}),
    )


def test_events_come_and_an_artifact_is_left(tmp_path: Path) -> None:
    events = list(LocalLauncher().launch(request(ProbeConfig(text="hello")), tmp_path))
    assert [event["metrics"] for event in events if "metrics" in event] == [{"loss": 2.0}]
    assert [event["progress"] for event in events if "progress" in event] == [0.5]
    assert Artifact.open(tmp_path).path("text.txt").read_text() == "hello"


def test_a_killed_process_is_told_from_a_failed_stage(tmp_path: Path) -> None:
    with pytest.raises(WorkerKilledError, match="killed by signal 9"):
        list(LocalLauncher().launch(request(ProbeConfig(end="killed")), tmp_path))


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventFile(path)
    assert events.new() == []
    path.write_text('{"step": 1}\n{"st')
    assert events.new() == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert events.new() == [{"step": 2}]
    assert events.new() == []
