"""What the environment decides: telemetry, proxies, keys; and the pipeline that labels."""

import json
import os
import socket
from pathlib import Path

import pytest

from components.cascade.helpers import endpoint as helper
from components.evaluation.factuality import chat as judge
from components.evaluation.text_models import endpoint as evaluated
from conf.compose import compose_project
from flows.doctor import connections, pipeline, quiet
from tests.flows.doctor.conftest import Install


def test_everything_is_quiet_by_default_and_a_switch_that_was_turned_on_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    assert quiet.telemetry().state == "ok"
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "true")
    found = quiet.telemetry()
    assert (found.state, found.remedy) == ("warning", "unset PREFECT_SERVER_ANALYTICS_ENABLED")
    assert found.found == "Prefect's server may report home: PREFECT_SERVER_ANALYTICS_ENABLED=true"


def test_the_word_that_mlflow_does_not_know_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    assert quiet.telemetry().state == "ok"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    found = quiet.telemetry()
    assert found.found.startswith("MLflow may report home")
    assert "DO_NOT_TRACK=1" in found.found


def test_a_proxy_that_catches_this_machine_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example:3128")
    found = connections.proxy()
    assert (found.state, found.remedy) == ("warning", "export NO_PROXY=localhost,127.0.0.1")
    assert "secret" not in found.found
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert connections.proxy().state == "ok"


def test_a_silent_endpoint_is_a_warning_and_a_distant_one_wants_a_key(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(helper.API_KEY, raising=False)
    settings = ["cascade.helper.kind=endpoint", "cascade.helper.name=any"]
    silent = compose_project("world", [*settings, f"cascade.helper.url=http://127.0.0.1:{closed_port}/v1"])
    found = connections.endpoints(silent)
    assert (found.state, "cascade.helper.url" in found.found) == ("warning", True)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        answering = compose_project("world", [*settings, f"cascade.helper.url={url}"])
        assert connections.endpoints(answering).state == "ok"
        monkeypatch.setattr(connections, "_is_local", lambda _: False)
        assert connections.endpoints(answering).remedy == f"export {helper.API_KEY}=..."
        monkeypatch.setenv(helper.API_KEY, "k")
        assert connections.endpoints(answering).state == "ok"


def test_the_keys_are_those_that_the_clients_read() -> None:
    overrides = [
        f"{section}.{key}"
        for section in ("facts.factscore.judge", "arena.judge")
        for key in ("kind=endpoint", "url=http://h/v1")
    ]
    named = ["evaluate.model=http://h/v1", "cascade.helper.kind=endpoint", "cascade.helper.url=http://h/v1"]
    config = compose_project("world", [*overrides, *named, "arena.judge.name=j", "facts.factscore.judge.name=j"])
    keys = {setting: key for setting, _, key in connections._endpoints(config)}
    assert keys == {
        "cascade.helper.url": helper.API_KEY,
        "facts.factscore.judge.url": judge.API_KEY,
        "arena.judge.url": judge.API_KEY,
        "evaluate.model": evaluated.API_KEY,
    }


def test_real_text_without_a_pipeline_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.labelling.installed.installed_pipeline", lambda _: None)
    assert pipeline.pipeline(compose_project()).state == "ok"
    text = ["data.sources=[a.txt]"]
    found = pipeline.pipeline(compose_project("text", text))
    assert (found.state, "capitals and digits" in found.found) == ("warning", True)
    assert pipeline.pipeline(compose_project("text", [*text, "label.annotator=spacy"])).state == "fault"
    assert pipeline.pipeline(compose_project("text", [*text, "label.rules=digits_only"])).state == "ok"


def test_a_pipeline_for_another_spacy_is_found(installed: Install) -> None:
    site = installed("en_core_web_lg", "9.0.0", entry_points="[spacy_models]\nen_core_web_lg = en_core_web_lg\n")
    (site / "en_core_web_lg").mkdir()
    (site / "en_core_web_lg" / "__init__.py").touch()
    meta = {"spacy_version": ">=99.0,<100", "components": ["ner", "attribute_ruler", "parser"]}
    (site / "en_core_web_lg" / "meta.json").write_text(json.dumps(meta))
    assert pipeline.pipeline(compose_project()).state == "warning"
    found = pipeline.pipeline(compose_project("text", ["data.sources=[a.txt]"]))
    assert (found.state, "en_core_web_lg needs spacy>=99.0,<100" in found.found) == ("fault", True)


def test_a_pipeline_that_does_not_load_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spacy.py").write_text("raise ImportError('numpy.dtype size changed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    found = pipeline.pipeline(compose_project("text", ["data.sources=[a.txt]", f"label.pipeline={tmp_path}"]))
    assert (found.state, "numpy.dtype size changed" in found.found) == ("fault", True)
    assert "Traceback" not in found.found
