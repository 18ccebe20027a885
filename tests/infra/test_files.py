"""What lies in infra/ fits its schemas and names only what there is: commands, routes, metrics, settings, extras."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.compose import compose_section
from conf.form import FormConfig
from conf.schema import ServeCommandConfig
from conf.services import REMOTE, TRACKING_URI, TrackingConfig, VersioningConfig
from tests.conftest import ROOT
from tests.infra.servers import INFRA, compose

DOCKERFILES = sorted((INFRA / "images").glob("*.Dockerfile"))
UNITS = sorted((INFRA / "systemd").glob("*.service"))
OVERLAYS = sorted(path.parent for path in (INFRA / "kubernetes" / "overlays").glob("*/kustomization.yaml"))
BASE = [path for path in sorted((INFRA / "kubernetes" / "base").glob("*.yaml")) if path.name != "kustomization.yaml"]
KUBERNETES = ("1.30.0", "1.37.0")
"""The oldest and the newest version whose schemas the manifests are held against."""
TELEMETRY = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
# Not our images: each has a user of its own, or asks for one.
FOREIGN = ("postgres", "login", "proxy")


def marked(function: Callable[..., None]) -> Callable[..., None]:
    """Leave a test that imports MLflow or reads large schemas to `make infra-test` and `make soak`."""
    for mark in (pytest.mark.slow, pytest.mark.soak, pytest.mark.infra):
        function = mark(function)
    return function


def objects() -> list[dict[str, Any]]:
    """Every object of the base, as it is written."""
    return [each for path in BASE for each in yaml.safe_load_all(path.read_text())]


def pods() -> dict[str, dict[str, Any]]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in objects() if each["kind"] == "Deployment"
    }


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods().items():
        yield from ((name, each) for each in [*pod.get("initContainers", []), *pod["containers"]])


def own_commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of ours in compose, Kubernetes and systemd, with the place where it stands."""
    for name, service in compose()["services"].items():
        if "lacewing" in service.get("image", ""):
            yield f"compose {name}", [str(word) for word in service["command"]]
    for name, container in containers():
        yield f"kubernetes {name}", [str(word) for word in container["command"]]
    for path in UNITS:
        start = re.search(r"^ExecStart=/opt/lacewing/bin/(.+)$", path.read_text(), re.MULTILINE)
        assert start, path
        yield path.name, start[1].split()


def urls() -> Iterator[tuple[str, str]]:
    """Every address that a health check asks: the service, and the route."""
    for name, service in compose()["services"].items():
        for found in re.findall(
            r"http://127.0.0.1:\d+(/[\w/]*)", " ".join(service.get("healthcheck", {}).get("test", []))
        ):
            yield name, found
    for name, container in containers():
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if kind in container:
                yield name, container[kind]["httpGet"]["path"]
    for path in DOCKERFILES:
        yield from (("server", found) for found in re.findall(r"127.0.0.1:8000(/\w+)", path.read_text()))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_pinned_and_run_without_root(path: Path) -> None:
    text = path.read_text()
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", text, re.MULTILINE)
    assert len(stages) == 2, "one stage installs, the other runs"
    for image, _ in stages:
        assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", image)
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users, "the image would run as root"
    assert users[-1] == "10001:10001"
    last = text.rpartition("FROM ")[2]
    assert "pip install" not in last, "installers stay in the first stage"
    for command in re.findall(r"pip install.*", text):
        assert "-c constraints.txt" in command, command
    for command in re.findall(r"apt-get install.*(?:\n    .*)*", text):
        assert "--no-install-recommends" in command
        assert "rm -rf /var/lib/apt/lists" in command
    for name, value in TELEMETRY.items():
        assert f"{name}={value}" in text
    assert "HEALTHCHECK" in last
    assert not re.search(r"^ADD |curl .*\| *sh|:latest", text, re.MULTILINE)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_copy_what_there_is_and_install_extras_that_there_are(path: Path) -> None:
    text, project = path.read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)]
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name
        assert f"!{name}" in sent, f"{name} is not sent to the builder"
    assert {"flows", "components", "conf", "kernels"} <= {name for names in copied for name in names}
    extras = re.search(r"\.\[([\w,]+)\]", text)
    assert extras
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    command = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    compose_section(ServeCommandConfig, json.loads(command[-1])[2:])


def test_services_of_compose_are_pinned_confined_and_checked() -> None:
    services = compose()["services"]
    for name, service in services.items():
        image = service["image"]
        assert re.fullmatch(r"(?:lacewing:cpu|[\w./-]+:v?\d+\.\d+[\w.-]*)", image), image
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
        assert "docker.sock" not in json.dumps(service), name
        if name != "postgres":  # its image becomes the user postgres by itself, for which it needs some
            assert service["cap_drop"] == ["ALL"], name
    long_lived = {name for name, service in services.items() if name not in ("bucket", "s3-folder")}
    unchecked = {name for name in long_lived if "healthcheck" not in services[name]}
    assert unchecked == {"worker", "login", "proxy"}, "images without a shell, and a worker that has no port"
    assert all(services[name]["restart"] == "unless-stopped" for name in long_lived)
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            once = needed in ("bucket", "s3-folder")
            assert how["condition"] == ("service_completed_successfully" if once else "service_healthy")


def test_only_the_proxy_can_be_reached_from_outside() -> None:
    content = compose()
    assert [name for name, service in content["services"].items() if "ports" in service] == ["proxy"]
    assert content["networks"]["inner"] == {"internal": True}
    outside = [name for name, service in content["services"].items() if "outer" in service.get("networks", [])]
    assert outside == ["login", "proxy"]
    caddyfile = (INFRA / "compose" / "Caddyfile").read_text()
    for service in ("prefect:4200", "mlflow:5000"):
        assert f"import guarded {service}" in caddyfile
        assert f"reverse_proxy {service}" not in caddyfile, f"{service} would be open to everybody"
    guarded = caddyfile.partition("(guarded)")[2].partition("\nlogin.{$DOMAIN}")[0]
    assert "basicauth" in guarded
    assert guarded.index("forward_auth") < guarded.rindex("reverse_proxy")
    targets = set(re.findall(r"(?:reverse_proxy|guarded|forward_auth) ([a-z0-9]+):(\d+)", caddyfile))
    assert {name for name, _ in targets} <= set(content["services"])


def test_every_variable_of_compose_is_explained_and_secrets_have_no_default() -> None:
    text, example = (INFRA / "compose.yaml").read_text(), (INFRA / ".env.example").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    assert used == set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    for name in used - {"LACEWING_IMAGE", "DOMAIN"}:
        assert f"${{{name}:?" in text, f"{name} may be forgotten"
        assert f"${{{name}:-" not in text
        assert re.search(rf"^{name}=(machine)?$", example, re.MULTILINE), f"{name} has a value that everybody knows"
    assert "infra/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_place_turns_telemetry_off() -> None:
    for name, service in compose()["services"].items():
        if "lacewing" in service["image"] and name not in ("bucket", "s3-folder"):
            assert TELEMETRY.items() <= service["environment"].items(), name
    settings = next(each["data"] for each in objects() if each["kind"] == "ConfigMap")
    assert TELEMETRY.items() <= settings.items()
    for name, container in containers():
        assert {"configMapRef": {"name": "lacewing"}} in container["envFrom"], name
    for path in UNITS:
        assert all(f"{name}={value}" in path.read_text() for name, value in TELEMETRY.items()), path.name


@pytest.mark.parametrize(
    ("place", "command"), list(own_commands()), ids=lambda part: part if isinstance(part, str) else ""
)
def test_commands_exist_and_their_settings_are_valid(place: str, command: list[str]) -> None:
    from flows.commands import COMMANDS

    program, *words = command
    match program:
        case "lacewing":
            assert words[0] == "serve"
            assert words[0] in COMMANDS
            serve = compose_section(ServeCommandConfig, [word.replace("$(MODELS_HOST)", "h") for word in words[1:]])
            assert serve.model == "champion"
        case "python" if words[0] == "-m":
            assert find_spec(words[1]) is not None
            assert not [word for word in words[2:] if word.startswith("--") and not word.startswith("--pool=")]
        case "python":
            compile(words[1], place, "exec")
        case "chown":
            assert place == "compose s3-folder"
        case _:
            assert program in ("mlflow", "prefect")


@marked
def test_options_of_mlflow_and_prefect_exist() -> None:
    from mlflow.cli import server
    from prefect.cli import worker

    known = {option for parameter in server.params for option in parameter.opts}
    flags = {parameter.envvar for parameter in server.params}
    used = [word for _, command in own_commands() if command[0] == "mlflow" for word in command if word[:2] == "--"]
    assert used
    assert set(used) <= known
    assert {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"} <= flags
    text = Path(worker.__file__).read_text()
    used = [word for _, command in own_commands() if command[0] == "prefect" for word in command if word[:2] == "--"]
    assert used
    for word in used:
        assert f'"{word}"' in text, word


def test_settings_in_the_environment_are_read_by_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import environment_variables

    from components.deployment.config import API_KEY
    from flows.form import FORM
    from flows.workspace import WORKSPACE

    settings = next(each["data"] for each in objects() if each["kind"] == "ConfigMap")
    names = {name for service in compose()["services"].values() for name in service.get("environment", {})} | set(
        settings
    )
    for _, container in containers():
        names |= {each["name"] for each in container["env"]}
    ours = {API_KEY, FORM, WORKSPACE, TRACKING_URI, REMOTE}
    assert {name for name in names if name.startswith("LACEWING_")} == ours
    for name in (name for name in names if name.startswith("MLFLOW_")):
        known = hasattr(environment_variables, name) or name in (
            "MLFLOW_BACKEND_STORE_URI",
            "MLFLOW_ARTIFACTS_DESTINATION",
        )
        assert known, name
    for values in (settings, compose()["services"]["worker"]["environment"]):
        FormConfig.model_validate_json(values[FORM])
        monkeypatch.setenv(TRACKING_URI, values[TRACKING_URI])
        monkeypatch.setenv(REMOTE, values[REMOTE])
        assert TrackingConfig().uri == "http://mlflow:5000"
        assert VersioningConfig().remote == "s3://lacewing/dvc"


def test_health_checks_ask_routes_that_there_are() -> None:
    """Those of MLflow and Prefect are asked in test_two_machines and test_prefect, where both run."""
    assert '@app.get("/health"' in (ROOT / "components" / "deployment" / "routes.py").read_text()
    assert "--health" in compose()["services"]["s3"]["command"]
    asked = set(urls())
    same = {(name, "/health") for name in ("server", "s3", "worker", "mlflow")}
    assert asked == same | {("prefect", "/api/health")}


def test_pods_are_confined_and_limited() -> None:
    for name, pod in pods().items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
    for name, container in containers():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert container["image"] == "lacewing", "the overlay gives it its name and version"
        assert "memory" in container["resources"]["limits"], name
        assert container["resources"]["requests"], name


def test_the_autoscaler_follows_a_figure_that_the_server_exports() -> None:
    exported = re.findall(r'"(lacewing_\w+)"', (ROOT / "components" / "deployment" / "version_metrics.py").read_text())
    scaler = next(each for each in objects() if each["kind"] == "HorizontalPodAutoscaler")
    names = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]]
    assert names == ["lacewing_queued_requests"]
    assert set(names) <= set(exported)
    rules = yaml.safe_load((INFRA / "kubernetes" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert [rule["name"]["as"] for rule in rules] == names
    server = next(each for each in objects() if each["kind"] == "Deployment" and each["metadata"]["name"] == "server")
    assert "replicas" not in server["spec"], "the number of pods is the autoscaler's"


def test_objects_of_kubernetes_find_each_other() -> None:
    labels = {each["metadata"]["name"] for each in objects() if each["kind"] == "Deployment"}
    for each in objects():
        if each["kind"] == "Service":
            assert each["spec"]["selector"]["app.kubernetes.io/name"] in labels
    secret = re.findall(r"^(\w+)=", (INFRA / "kubernetes" / "secret.env.example").read_text(), re.MULTILINE)
    asked = {
        entry["valueFrom"]["secretKeyRef"]["key"]
        for _, each in containers()
        for entry in each["env"]
        if "valueFrom" in entry
    }
    assert asked == set(secret)


@marked
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_manifests_fit_the_schemas_of_kubernetes(overlay: Path) -> None:
    """The overlay as Kustomize makes it, against the strict schemas of two versions."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="not installed; make infra-test does")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which has Kustomize in it, is not installed")
    made = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    manifests = list(yaml.safe_load_all(made.stdout))
    assert {each["kind"] for each in manifests} >= {"Deployment", "Service", "HorizontalPodAutoscaler", "NetworkPolicy"}
    for version in KUBERNETES:
        for each in manifests:
            kubernetes_validate.validate(each, version, strict=True)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**manifests[0], "kinds": "typo"}, version, strict=True)
    images = set(re.findall(r"image: (\S+)", made.stdout))
    assert images == {f"registry.example.org/lacewing:0.1.0-{overlay.name}"}
    assert ('nvidia.com/gpu: "1"' in made.stdout) == (overlay.name == "gpu")


def test_units_are_sound_and_confined(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for path in [*UNITS, INFRA / "systemd" / "lacewing.target"]:
        here = re.sub(r"/opt/lacewing/bin/\S+", sys.executable, path.read_text())
        (tmp_path / path.name).write_text(here)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for file in files:
        if file.endswith(".service"):
            command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", file]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout


def test_units_of_systemd_listen_on_loopback_and_know_their_settings() -> None:
    for path in UNITS:
        text = path.read_text()
        assert "User=lacewing" in text
        assert "0.0.0.0" not in text
        assert "EnvironmentFile=/etc/lacewing/lacewing.env" in text
    target = (INFRA / "systemd" / "lacewing.target").read_text()
    assert all(path.name in target for path in UNITS)


def test_the_proxy_understands_its_file() -> None:
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("caddy is not installed: apt install caddy")
    hashed = "JDJhJDE0JE5lc2dZSDFLZFJhaHpQNDJMSmhVUnVOdzdOTUl4VHFOWUtkQ1JiYThRUlNkUzVtaVNQVXNl"
    settings = {"DOMAIN": "example.org", "MACHINE_USER": "machine", "MACHINE_PASSWORD_HASH": hashed}
    command = [caddy, "adapt", "--adapter", "caddyfile", "--config", str(INFRA / "compose" / "Caddyfile")]
    done = subprocess.run(command, capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
