"""The registered model as users of MLflow meet it: loaded, served, and on its pages."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import mlflow
import pandas
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from components.core.errors import ArtifactError
from components.deployment.engine import Engine
from components.deployment.in_process import answer, requests_of
from components.model.bundle import Bundle
from conf.services import TrackingConfig
from flows.adapters.mlflow_flavor import requirements
from flows.promotion import Registry, Version
from tests.deployment.conftest import Fact
from tests.end_to_end.conftest import Place, free_port

CHAMPION = "models:/lacewing@champion"
RUN = {"lacewing.config_digest": "c0ffee", "lacewing.preset": "world"}
GATE = {"lacewing.gate": "passed", "lacewing.gate_reason": "0.1 bits | better"}


@dataclass(frozen=True)
class Registered:
    """A bundle that asks a fact table, registered and promoted in a database of its own."""

    registry: Registry
    version: Version
    uri: str
    folder: Path
    """Where its files lie in the artifact store."""


@pytest.fixture(scope="module")
def registered(
    asking: Bundle, migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registered]:
    workspace = tmp_path_factory.mktemp("registered")
    uri = f"sqlite:///{shutil.copy(migrated_database, workspace / 'mlflow.db')}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACEWING_WORKSPACE", str(workspace))
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setattr(sys, "path", list(sys.path))  # MLflow adds the code of a loaded model, and leaves it there
        registry = Registry(TrackingConfig())
        version = registry.promote(registry.register(asking, RUN, GATE).number, "for the test")
        (definition,) = (workspace / "mlartifacts" / "models").rglob("MLmodel")
        yield Registered(registry, version, uri, definition.parent)


@pytest.fixture(scope="module")
def loaded(registered: Registered) -> PyFuncModel:
    return mlflow.pyfunc.load_model(CHAMPION)


def test_the_champion_loads_and_says_who_wrote_what(loaded: PyFuncModel, fact: Fact, asking: Bundle) -> None:
    (given,) = loaded.predict({"prompt": [fact.prompt]}, params={"call_budget": 1.0, "max_tokens": 6}).to_dict(
        "records"
    )
    assert given["calls"] > 0
    assert given["failed_calls"] == 0
    assert given["spans"][0]["author"] == "helper"
    assert given["spans"][0]["text"].startswith(fact.value)
    assert "".join(span["text"] for span in given["spans"]) == given["text"]
    with Engine(asking.folder, threads=1) as engine:
        settings = {"call_budget": 1.0, "max_tokens": 6, "temperature": 0.0, "seed": 0}
        (same,) = answer(engine, requests_of(engine, [fact.prompt], **settings))
    assert given["text"] == same.text


def test_a_table_of_prompts_gives_a_table_of_answers(loaded: PyFuncModel) -> None:
    given = loaded.predict(pandas.DataFrame({"prompt": ["She", "The river", "A"]}), params={"max_tokens": 2})
    assert list(given.columns) == ["text", "spans", "calls", "failed_calls", "finish_reason"]
    assert len(given) == 3
    assert loaded.predict({"prompt": ["She", "The river", "A"]}, params={"max_tokens": 2}).equals(given)
    assert loaded.predict([{"prompt": "She"}], params={"max_tokens": 2})["text"].tolist() == given["text"].tolist()[:1]


def test_the_signature_names_the_settings_and_their_defaults(loaded: PyFuncModel) -> None:
    schema = loaded.metadata.get_params_schema()
    assert {each.name: each.default for each in schema.params} == {
        "call_budget": 0.5,  # that of the bundle
        "max_tokens": 32,
        "temperature": 0.0,
        "seed": 0,
    }
    assert loaded.metadata.get_input_schema().input_names() == ["prompt"]
    assert loaded.predict(loaded.input_example)["text"].tolist()[0]


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ("She", {"call_budget": 2.0}, "call_budget=2.0: Input should be less than or equal to 1"),
        ("She", {"max_tokens": 0}, "max_tokens=0: Input should be greater than or equal to 1"),
        ("", {}, "the prompt is empty"),
        (["She", None], {}, "a prompt must be a text, got "),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(loaded: PyFuncModel, prompt, params, words) -> None:
    with pytest.raises(MlflowException) as refusal:
        loaded.predict(pandas.DataFrame({"prompt": [prompt]}), params=params)
    assert words in str(refusal.value)
    assert refusal.value.error_code == "INVALID_PARAMETER_VALUE"


def test_who_loads_it_may_do_without_the_helper(registered: Registered) -> None:
    alone = mlflow.pyfunc.load_model(CHAMPION, model_config={"call_budget": 0.0})
    with pytest.raises(MlflowException, match="answers without a helper"):
        alone.predict(pandas.DataFrame({"prompt": ["She"]}), params={"call_budget": 0.5})
    assert alone.predict(pandas.DataFrame({"prompt": ["She"]}), params={"call_budget": 0.0})["calls"].tolist() == [0]


def test_nothing_is_pickled_and_the_weights_are_stored_once(registered: Registered, asking: Bundle) -> None:
    files = {path.relative_to(registered.folder).as_posix() for path in registered.folder.rglob("*") if path.is_file()}
    assert {name for name in files if name.startswith("artifacts/")} == {
        f"artifacts/bundle/{name}" for name in (*asking.record.files, "artifact.json")
    }, "nothing but the sealed files"
    suffixes = {Path(name).suffix for name in files if not name.startswith("artifacts/")}
    assert suffixes == {"", ".py", ".yaml", ".txt", ".json", ".html", ".css", ".js", ".svg"}
    definition = (registered.folder / "MLmodel").read_text()
    assert "pickle" not in definition
    assert "model_code_path: lacewing_pyfunc.py\n" in definition, "no path of this machine"
    store = registered.folder.parents[2]
    assert len(list(store.rglob("model.safetensors"))) == 1


def test_the_requirements_are_what_the_engine_imports(registered: Registered) -> None:
    lines = (registered.folder / "requirements.txt").read_text().splitlines()
    assert [line.replace('"', "'") for line in lines] == requirements()
    names = {line.partition("==")[0] for line in lines}
    assert {"mlflow", "torch", "tokenizers", "safetensors", "openai"} <= names
    assert not {"lacewing", "prefect", "lightning", "dvc", "hydra-core"} & names


def test_a_bundle_altered_in_the_store_is_not_answered_with(registered: Registered, tmp_path: Path) -> None:
    copy = shutil.copytree(registered.folder, tmp_path / "model")
    weights = copy / "artifacts" / "bundle" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactError, match=r"model\.safetensors was altered"):
        mlflow.pyfunc.load_model(str(copy))


def test_the_page_of_the_logged_model_shows_metrics_data_and_version(registered: Registered, asking: Bundle) -> None:
    client = registered.registry.connection.client
    version = client.get_model_version("lacewing", "1")
    model = client.get_logged_model(version.tags["lacewing.model_id"])
    assert version.source == f"models:/{model.model_id}"
    assert version.run_id == model.source_run_id
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "lacewing", "version": "1"}]
    assert model.tags["mlflow.note.content"] == version.description
    assert {metric.key: metric.value for metric in model.metrics} == asking.metrics
    assert model.params["delegation.helper"] == "world"
    assert [each.model_id for each in client.get_run(version.run_id).outputs.model_outputs] == [model.model_id]


def test_the_description_says_what_it_is_how_to_serve_it_and_what_the_gate_said(registered: Registered) -> None:
    client = registered.registry.connection.client
    text = client.get_model_version("lacewing", "1").description
    assert text.startswith("A small language model that knows when to ask")
    assert "It asks its helper (`world`) at 50% of its decisions." in text
    assert "| gate | **passed**: 0.1 bits \\| better |" in text
    assert "| configuration | `c0ffee` |" in text
    assert "mlflow models serve -m models:/lacewing/1 --env-manager local" in text
    assert "champion" in client.get_registered_model("lacewing").description
    assert registered.version.tags["lacewing.config_digest"] == "c0ffee"
    assert registered.version.tags["lacewing.gate"] == "passed"


def test_metrics_measured_on_the_data_name_the_data_set(make_bundle, data, database, workspace) -> None:
    registry = Registry(TrackingConfig())
    version = registry.register(make_bundle("a"))
    client = registry.connection.client
    metrics = {each.key: each for each in client.get_logged_model(version.tags["lacewing.model_id"]).metrics}
    named = metrics["assessment.bits_per_byte"]
    assert (named.dataset_name, named.dataset_digest) == ("prepare/shards", data.key)
    assert metrics["parameters"].dataset_name is None
    inputs = client.get_run(named.run_id).inputs.dataset_inputs
    assert ("prepare/shards", data.key) in [(each.dataset.name, each.dataset.digest) for each in inputs]


def test_a_version_of_before_is_still_fetched(make_bundle, database, workspace) -> None:
    """Its files lie at the top of the logged model, and nothing says where."""
    registry = Registry(TrackingConfig())
    bundle = make_bundle("a")
    version = registry.register(bundle)
    (record,) = (workspace / "mlartifacts" / "models").rglob("artifact.json")
    for path in record.parent.iterdir():
        path.rename(record.parents[2] / path.name)
    registry.model.remove_tag(version, "lacewing.bundle_path")
    shutil.rmtree(bundle.folder)
    assert registry.resolve("1").key == bundle.key


@pytest.mark.slow
def test_the_model_brings_the_code_that_answers(registered: Registered, tmp_path: Path) -> None:
    code = (
        "import sys, mlflow\n"
        f"model = mlflow.pyfunc.load_model({str(registered.folder)!r})\n"
        "model.predict({'prompt': ['She']}, params={'max_tokens': 2})\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('components', 'kernels', 'flows')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = done.stdout.split()
    assert len(files) > 50
    assert [file for file in files if not file.startswith(str(registered.folder / "code"))] == []


@pytest.mark.slow
def test_mlflow_serves_it_and_calls_nobody_outside(registered: Registered, fact: Fact, tmp_path: Path) -> None:
    port, place = free_port(), Place(tmp_path / "workspace", tmp_path / "sockets.log")
    audit = {name: place.environment[name] for name in ("LACEWING_SOCKET_LOG", "PYTHONPATH")}
    command = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", CHAMPION]
    process = subprocess.Popen(
        [*command, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path,
        env={**_environment(), **audit, "MLFLOW_TRACKING_URI": registered.uri},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_served(process, port)
        body = {"dataframe_records": [{"prompt": fact.prompt}], "params": {"call_budget": 1.0, "max_tokens": 6}}
        reply = httpx.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60, trust_env=False)
        assert reply.status_code == 200, reply.text
        (given,) = reply.json()["predictions"]
        assert given["spans"][0]["author"] == "helper"
        assert given["spans"][0]["text"].startswith(fact.value)
        refused = httpx.post(
            f"http://127.0.0.1:{port}/invocations",
            json={**body, "params": {"call_budget": 7.0}},
            timeout=60,
            trust_env=False,
        )
        assert refused.status_code == 400
        assert "call_budget=7.0" in refused.json()["message"]
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
    assert place.outside_connections() == []
    assert "uvicorn" in place.watched_commands()


def _environment() -> dict[str, str]:
    """That of a person with an activated environment, MLflow's telemetry off, and no checkout on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": os.environ.get("HOME", ""), "MLFLOW_DISABLE_TELEMETRY": "true"}


def _wait_until_served(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "mlflow models serve ended by itself"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ping", timeout=5, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError("mlflow models serve did not answer")
