"""The default line on the closed world, small: from nothing to a served, registered model, and what holds after it.

One workspace for the whole module; the tests run in the order in which they are written.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.conftest import COMMAND, Place, free_port

pytestmark = [pytest.mark.slow]

SMALL = [
    "data.world.entities=300",
    "trainer.max_steps=40",
    "trainer.validate_every_steps=20",
    "assess.questions.max_questions=20",
    "delegation.max_steps=20",
    "calibrate.max_tokens=8000",
    "facts.max_tokens=8000",
    "facts.biographies=4",
    "facts.biography_tokens=32",
]
LINE = ["prepare", "label", "pretrain", "delegate", "calibrate", "cascade", "assess", "bundle", "smoke"]


@pytest.fixture(scope="module")
def first_run(place: Place) -> subprocess.CompletedProcess[str]:
    return place.run("pipeline", *SMALL)


def test_raw_text_becomes_a_served_registered_model(first_run: subprocess.CompletedProcess[str]) -> None:
    assert first_run.returncode == 0, first_run.stderr
    for words in (
        "data version",
        "parameters",
        "pretraining: tokens trained on",
        "pretraining: loss",
        "factual tokens",
        "delegation: loss",
        "delegation: learnt to ask for",
        "facts right",
        "bits per byte",
        "lacewing version 1, champion",
        "where to look",
        "it answered",
    ):
        assert words in first_run.stdout


def test_a_second_run_skips_every_stage_with_its_reason(
    place: Place, first_run: subprocess.CompletedProcess[str]
) -> None:
    again = place.run("pipeline", *SMALL)
    assert again.returncode == 0, again.stderr
    skipped = [line.split()[0] for line in again.stderr.splitlines() if " skipped: same key, files intact" in line]
    assert skipped == LINE
    assert "it is the champion already" in again.stdout


def test_what_the_champion_was_made_from_is_told_and_hashed_again(
    place: Place, first_run: subprocess.CompletedProcess[str]
) -> None:
    told = place.run("lineage")
    assert told.returncode == 0, told.stderr
    assert "lacewing version 1, promoted" in told.stdout
    for words in ("pretrained: pretrain", "labels: label", "raw/world/documents.jsonl", "from outside", "as above"):
        assert words in told.stdout
    bundle = json.loads(place.run("lineage", "champion", "--json").stdout)
    assert {each["name"] for each in bundle["inputs"]} >= {"delegated", "prepared", "calibration"}
    verified = place.run("verify")
    assert verified.returncode == 0, verified.stderr
    assert "all 10 match" in verified.stdout


def test_the_champion_is_exported_for_llama_cpp_with_what_rounding_costs(
    place: Place, first_run: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    exported = place.run("export", f"into={tmp_path / 'out'}", "precision=q8_0", "documents=10")
    assert exported.returncode == 0, exported.stderr
    assert "10 held-out documents" in exported.stdout
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["loss"]["bits_per_byte"] > 0
    assert (tmp_path / "out" / next(iter(record["files"]))).read_bytes()[:4] == b"GGUF"


@pytest.mark.soak
def test_the_champion_built_again_has_the_same_bits(
    place: Place, first_run: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    again = place.run("reproduce", "1", f"into={tmp_path / 'again'}")
    assert again.returncode == 0, again.stderr
    assert "bit-equal" in again.stdout
    assert "not bit-equal" not in again.stdout
    assert "prepare skipped" in again.stderr, "the data came from the remote"
    assert [version.name for version in (tmp_path / "again/artifacts/pretrain").glob("*") if version.is_dir()] == [
        version.name for version in (place.workspace / "artifacts/pretrain").glob("*") if version.is_dir()
    ]


def test_dry_run_says_what_a_change_would_cost_and_runs_nothing(
    place: Place, first_run: subprocess.CompletedProcess[str]
) -> None:
    before = sorted(path.name for path in place.workspace.glob("artifacts/*/*"))
    dry = place.run("pipeline", *SMALL, "trainer.learning_rate=0.5", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    lines = {line.split()[0]: line for line in dry.stderr.splitlines()}
    assert "up to date" in lines["prepare"]
    assert "would run" in lines["pretrain"]
    assert "trainer.learning_rate" in lines["pretrain"]
    assert sorted(path.name for path in place.workspace.glob("artifacts/*/*")) == before


@pytest.mark.soak
def test_a_worse_model_is_refused_with_its_reason(place: Place, first_run: subprocess.CompletedProcess[str]) -> None:
    worse = place.run("pipeline", *SMALL, "trainer.max_steps=4")
    assert worse.returncode == 3, worse.stderr
    assert "challenger" in worse.stdout
    assert "worse" in worse.stdout
    assert place.run("pipeline", *SMALL).returncode == 0  # the champion is still the first model


def test_a_better_model_is_promoted_and_can_be_rolled_back(
    place: Place, first_run: subprocess.CompletedProcess[str]
) -> None:
    nothing_before = place.run("rollback")
    assert nothing_before.returncode != 0
    better = [*SMALL, "trainer.max_steps=120"]
    promoted = place.run("pipeline", *better)
    assert promoted.returncode == 0, promoted.stderr
    assert "champion" in promoted.stdout
    back = place.run("rollback")
    assert back.returncode == 0, back.stderr
    assert "version 1" in back.stdout or "1" in back.stdout
    refused = place.run("pipeline", *better)
    assert refused.returncode == 3
    assert "rolled back" in refused.stdout
    allowed = place.run("pipeline", *better, "release.allow_rolled_back=true")
    assert allowed.returncode == 0, allowed.stderr


def test_an_altered_artifact_is_made_again(place: Place, first_run: subprocess.CompletedProcess[str]) -> None:
    reports = list(place.workspace.glob("artifacts/assess/*/report.md"))  # one for each model that was tried before
    for report in reports:
        report.write_text(report.read_text() + "\nedited by hand\n")
    again = place.run("assess", *SMALL)
    assert again.returncode == 0, again.stderr
    assert "damaged: report.md" in again.stderr
    assert sum("edited by hand" in report.read_text() for report in reports) == len(reports) - 1


def test_a_version_of_the_data_comes_back_into_an_empty_workspace(
    place: Place, first_run: subprocess.CompletedProcess[str]
) -> None:
    folder = next(place.workspace.glob("artifacts/prepare/*/artifact.json")).parent
    key = json.loads((folder / "artifact.json").read_text())["identity"]["key"]
    empty = Place(place.workspace.parent / "empty", place.sockets)
    pulled = empty.run("data", "pull", key, f"versioning.remote={place.workspace / 'remote'}")
    assert pulled.returncode == 0, pulled.stderr
    again = empty.run("prepare", *SMALL, "versioning.push=false")
    assert "prepare    skipped" in again.stderr


@pytest.fixture(scope="module")
def server(place: Place, first_run: subprocess.CompletedProcess[str]) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([COMMAND, "serve", "model=champion", f"port={port}"], env=place.environment)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{address}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_the_champion_answers_openai_requests(server: str) -> None:
    models = httpx.get(f"{server}/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["champion"]
    body = {"model": "champion", "prompt": "The", "max_tokens": 8, "temperature": 0}
    plain = httpx.post(f"{server}/v1/completions", json=body, timeout=60).json()
    assert plain["usage"]["completion_tokens"] == 8
    with httpx.stream("POST", f"{server}/v1/completions", json={**body, "stream": True}, timeout=60) as stream:
        events = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]) == plain["choices"][0]["text"]


def test_the_champion_asks_its_helper_unless_it_is_told_not_to(server: str) -> None:
    body = {"model": "champion", "prompt": "The", "max_tokens": 24, "temperature": 0}
    asked = httpx.post(f"{server}/v1/completions", json={**body, "call_budget": 0.5}, timeout=60).json()
    alone = httpx.post(f"{server}/v1/completions", json={**body, "call_budget": 0}, timeout=60).json()
    assert "<CALL>" not in asked["choices"][0]["text"] + alone["choices"][0]["text"]
    assert 0 < asked["usage"]["completion_tokens_details"]["calls"] <= 12
    assert alone["usage"]["completion_tokens_details"]["calls"] == 0


def test_a_taken_port_is_named(place: Place, server: str) -> None:
    port = server.rpartition(":")[2]
    second = place.run("serve", f"port={port}")
    assert second.returncode == 6
    assert f"port {port}" in second.stderr


def test_no_process_of_the_whole_flow_spoke_to_another_machine(
    place: Place, first_run: subprocess.CompletedProcess[str]
) -> None:
    """Every Python process writes its sockets down: command, Prefect server, stages, smoke server."""
    assert place.outside_connections() == []
    commands = place.watched_commands()
    for process in ("lacewing", "prefect_server", "components.core.worker", "components.deployment.server"):
        assert process in commands


@pytest.mark.soak
def test_multirun_runs_every_combination(place: Place) -> None:
    swept = place.run("prepare", "--multirun", "data.vocab_size=512,1024", "data.world.entities=150")
    assert swept.returncode == 0, swept.stderr
    assert swept.stdout.count("prepare ran") == 2
    assert "vocab_size 512 -> 1024" in swept.stderr
