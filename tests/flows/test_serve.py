"""``lacewing serve``: what the server's process is told about the model that it serves."""

import json
import os
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.deployment.config import ServeConfig
from conf.compose import compose_section
from conf.schema import ServeCommandConfig
from conf.services import TRACKING_URI, TrackingConfig
from flows import serve as command
from flows.promotion import Registry
from flows.watch import WatchSettings

pytestmark = pytest.mark.usefixtures("database")


class Replaced(Exception):  # noqa: N818 - not an error: in its place the process would become the server
    """The process has become another."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process becomes, word by word."""
    words: list[str] = []

    def execv(path: str, command: list[str]) -> None:
        words.extend(command)
        raise Replaced

    monkeypatch.setattr(os, "execv", execv)
    return words


def served(reference: str) -> None:
    with pytest.raises(Replaced):
        command.serve(ServeCommandConfig(model=reference, port=0))


def test_the_page_is_told_the_version_and_where_mlflow_shows_it(workspace, make_bundle, told, monkeypatch):
    registry = Registry(TrackingConfig())
    registry.promote(registry.register(make_bundle("a")).number, "the first", by="alice")
    served("champion")
    assert told[-3:-1] == ["--model-version=lacewing/1", "--model-page="]
    monkeypatch.setattr(command, "running", lambda server: f"http://127.0.0.1:5000/{server}")
    served("1")
    assert told[-1] == "--model-page=http://127.0.0.1:5000/mlflow/#/models/lacewing/versions/1"


def test_adapters_reach_the_server_as_it_reads_them(workspace: Path, make_bundle, told):
    folder = str(make_bundle("a").folder)
    given = compose_section(ServeCommandConfig, [f"model={folder}", "port=0", "adapters={support: a/b, tone: 'c d'}"])
    with pytest.raises(Replaced):
        command.serve(given)
    options = dict(word.removeprefix("--").split("=", 1) for word in told if "=" in word)
    again = ServeConfig.model_validate({name: options[name] for name in ("adapters", "calibrations")})
    assert (again.adapters, again.calibrations) == ({"support": "a/b", "tone": "c d"}, {})
    with pytest.raises(InputError, match="calibrations has 'x', which is no adapter; adapters has support"):
        compose_section(ServeCommandConfig, ["adapters={support: a}", "calibrations={x: y}"])


def test_a_folder_is_no_version(workspace: Path, make_bundle, told):
    served(str(make_bundle("a").folder))
    assert not [word for word in told if word.startswith(("--model-version", "--model-page", "--registry"))]


def test_an_alias_is_followed_and_a_version_is_not(workspace, make_bundle, told, monkeypatch):
    monkeypatch.setenv(TRACKING_URI, "")
    registry = Registry(TrackingConfig())
    registry.promote(registry.register(make_bundle("a")).number, "the first", by="alice")
    served("1")
    assert not [word for word in told if word.startswith("--registry")]
    address = registry.connection.uri  # as if it held a password
    with pytest.raises(Replaced):
        command.serve(ServeCommandConfig(port=0, tracking=TrackingConfig(uri=address)))
    words = json.loads(told[-1].removeprefix("--registry="))
    assert words[1:3] == ["-m", "flows.watch"]
    assert not [word for word in told if address in word], "everybody on the machine can read a command line"
    assert os.environ[TRACKING_URI] == address
    settings = WatchSettings.model_validate_json(words[-1])
    assert (settings.served, settings.canary, settings.tracking.uri) == ("champion", False, address)
    told.clear()
    with pytest.raises(Replaced):
        command.serve(ServeCommandConfig(port=0, follow_seconds=0.0))
    assert not [word for word in told if word.startswith("--registry")]
