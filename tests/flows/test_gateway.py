"""``lacewing gateway``: the settings reach the process that it becomes."""

import os
from pathlib import Path

import pytest

from components.deployment.gateway.config import GatewayConfig
from flows.cli import main
from flows.promotion import Registry


class ExecutedError(Exception):
    """Another program took the place of this process."""


def test_the_settings_reach_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def execute(program: str, command: list[str]) -> None:
        commands.append(command)
        raise ExecutedError

    class Found:
        folder = tmp_path

    monkeypatch.setattr(os, "execv", execute)
    monkeypatch.setattr(Registry, "resolve", lambda self, name: Found)
    with pytest.raises(ExecutedError):
        main(["gateway", "model=3", "upstream=http://127.0.0.1:8080/v1", "port=0", "allowed_hosts=[a,b]"])
    ((*_, module, folder, option, given),) = commands
    assert (module, folder, option) == ("components.deployment.gateway.server", str(tmp_path), "--settings")
    settings = GatewayConfig.model_validate_json(given)
    assert (settings.model, settings.port, settings.allowed_hosts) == ("3", 0, ["a", "b"])


def test_it_needs_the_address_of_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", "upstream=127.0.0.1:8080"]) == 2
    assert "upstream=http://127.0.0.1:8080/v1; given '127.0.0.1:8080'" in capsys.readouterr().err
