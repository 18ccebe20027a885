"""The command: in a clean workspace, with mistakes, and in an installation that is damaged itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flows.cli import main
from flows.doctor import examination, torch_report
from flows.doctor.examination import OF_INSTALLATION, OF_SETTINGS, OF_TORCH, OF_WORKSPACE
from flows.doctor.finding import Finding, fault, ok, warning
from flows.doctor.page import as_text
from flows.doctor.torch_report import BrokenTorchError, TorchReport

ALL = [*OF_INSTALLATION, *OF_TORCH, *OF_WORKSPACE, *OF_SETTINGS]
DAMAGED = """
import sys
for name in ("pydantic", "psutil", "rich", "filelock"):
    sys.modules[name] = None  # as if it were not installed
from flows.doctor import torch_report
def ask():
    raise torch_report.BrokenTorchError("no torch here")
torch_report.ask = ask
from flows.cli import main
sys.exit(main(["doctor"]))
"""


@pytest.fixture
def quick(report: TorchReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has been asked already."""
    monkeypatch.setattr(torch_report, "ask", lambda: report)


def test_a_clean_workspace_has_no_fault(workspace: Path) -> None:
    """As a person calls it, torch's process included, which is told to use one thread."""
    command = [sys.executable, "-m", "flows.cli", "doctor", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"}, timeout=120
    )
    findings = json.loads(done.stdout)
    assert [finding for finding in findings if finding["state"] == "fault"] == []
    assert done.returncode == 0, done.stderr
    assert [finding["check"] for finding in findings] == ALL
    assert set(findings[0]) == {"check", "state", "found", "remedy"}
    found = {finding.pop("check"): finding for finding in findings}
    assert found["torch"]["found"].startswith(torch.__version__)
    assert found["threads"]["found"].startswith("1 thread on ")
    assert (found["threads"]["state"] == "ok") is found["threads"]["found"].startswith("1 thread on 1 core")
    assert not workspace.exists()


@pytest.mark.usefixtures("quick")
def test_a_fault_ends_with_1_and_shows_its_remedy(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.write_text("not a folder")
    assert main(["doctor"]) == 1
    shown = " ".join(capsys.readouterr().out.split())  # long paths go on in the next line
    assert f"fault workspace {workspace} is a file" in shown
    assert "-> export LACEWING_WORKSPACE=" in shown


@pytest.mark.usefixtures("quick")
def test_it_looks_at_the_settings_that_are_given(
    workspace: Path, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json", f"tracking.uri=http://127.0.0.1:{closed_port}"]) == 1
    faults = [each["check"] for each in json.loads(capsys.readouterr().out) if each["state"] == "fault"]
    assert faults == ["MLflow"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--jsn"], "did you mean --json?"),
        (["--verbose"], "--verbose"),
        (["now"], "now"),
        (["tracking.url=http://h"], "did you mean tracking.uri"),
    ],
)
def test_mistakes_end_with_2(
    workspace: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_help_names_the_option_and_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    shown = capsys.readouterr().out
    for words in ("--json", "exit code is 1", "tracking.uri="):
        assert words in shown


def test_packages_that_are_missing_are_faults_and_no_traceback(workspace: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DAMAGED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    assert "no torch here" in done.stdout
    assert "they cannot be composed (" in done.stdout
    assert "file system     this check failed (ModuleNotFoundError" in done.stdout
    assert "ok       clashes" in done.stdout


def test_a_check_that_fails_is_a_fault_of_its_own() -> None:
    def check() -> Finding:
        raise RuntimeError("first line\nsecond line")

    found = examination._made(check)
    assert (found.state, found.found) == ("fault", "this check failed (RuntimeError: first line)")


def test_a_torch_that_does_not_answer_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> TorchReport:
        raise BrokenTorchError("it hangs")

    monkeypatch.setattr(torch_report, "ask", ask)
    assert examination._of_torch() == {"torch": fault("it hangs", examination.REINSTALL)}


def test_lines_fit_the_terminal_and_remedies_stay_whole() -> None:
    long = " ".join(["word"] * 60)
    findings = {"a": ok(long), "another": warning("slow", long), "third": fault("broken", "mend")}
    lines = as_text(findings, coloured=False, width=80).splitlines()
    assert lines[-1] == "1 fault, 1 warning, 1 ok"
    assert [line for line in lines if "->" not in line and len(line) > 80] == []
    assert f"-> {long}" in lines[-5]
    assert "\033[1;31mfault" in as_text(findings, coloured=True, width=80)
