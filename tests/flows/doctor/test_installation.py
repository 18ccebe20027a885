"""Wrong versions are found beside the real packages, by what is installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flows.doctor import installation
from tests.conftest import ROOT
from tests.flows.doctor.conftest import Install


def test_a_version_that_is_not_allowed_is_named_with_the_command_that_mends_it(installed: Install) -> None:
    installed("fastapi", "0.165.0")
    found = installation.requirements()
    assert found.state == "fault"
    assert "lacewing needs fastapi<0.151,>=0.150, and 0.165.0 is installed" in found.found
    assert "pip install" in found.remedy
    assert "'fastapi<0.151,>=0.150'" in found.remedy


def test_what_a_package_of_ours_needs_is_looked_for_too(installed: Install) -> None:
    installed("tenacity", "9.2.1", requires="no-such-package>=3")
    found = installation.requirements()
    assert found.state == "fault"
    assert "tenacity needs no-such-package>=3, which is not installed" in found.found


def test_an_extra_that_somebody_needs_of_a_package_is_looked_for(installed: Install) -> None:
    installed("tenacity", "9.2.1", requires="pybreaker[fast]")
    installed("pybreaker", "1.4.1", requires='no-such-package; extra == "fast"')
    assert "pybreaker needs no-such-package" in installation.requirements().found


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("fastapi", "0.151.0", "the server of prefect 3.8 does not import"),
        ("lightning", "2.6.3", "malware"),
        ("kernels", "0.9.0", "the name of our folder kernels/"),
        ("hydra-core", "1.4.0rc3", "needs Hydra 1.3"),
        ("antlr4-python3-runtime", "4.11.1", "reads its grammar with 4.9"),
        ("transformers", "5.12.0", "takes our folder kernels/"),
        ("vllm", "0.22.0", "its own environment"),
    ],
)
def test_what_pip_accepts_and_does_not_work_is_known(installed: Install, name: str, version: str, words: str) -> None:
    installed(name, version)
    found = installation.clashes()
    assert found.state == "fault"
    assert f"{name} {version}" in found.found
    assert words in found.found
    assert name in found.remedy


def test_a_newer_prefect_takes_a_newer_fastapi(installed: Install) -> None:
    installed("fastapi", "0.151.0")
    installed("prefect", "3.9.1")
    assert installation.clashes().state == "ok"


def test_another_version_than_the_tested_one_is_a_warning(installed: Install) -> None:
    name, _, version = installation.LOCK.read_text().splitlines()[0].partition("==")
    installed(name, "99.1")
    found = installation.lock()
    assert found.state == "warning"
    assert f"{name} 99.1 instead of {version}" in found.found
    assert "constraints.txt" in found.remedy


def test_each_extra_has_a_purpose_and_an_old_version_in_one_is_told(installed: Install) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(installation.EXTRAS) == set(extras) - {"dev", "infra"}
    installed("optuna", "2.10.1")
    found = installation.extras()
    assert found.state == "warning"
    assert "optuna<6,>=5, and 2.10.1 is installed" in found.found


def test_without_pyproject_the_metadata_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_project = {str(each) for each in installation._requirements("lacewing")}
    extra = {each.name for each in installation._of_extra("harness")}
    monkeypatch.setattr(installation, "PROJECT", tmp_path / "none")
    assert {str(each) for each in installation._requirements("lacewing")} == from_project
    assert {each.name for each in installation._of_extra("harness")} == extra


def test_an_unfit_python_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.python().state == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    found = installation.python()
    assert found.state == "fault"
    assert "3.14.0" in found.found
    assert "PYTHON=" in found.remedy


def test_a_package_in_front_of_ours_is_found(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    program += "from flows.doctor.installation import own_code; print(own_code())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "state='fault'" in done.stdout
    assert f"kernels is {tmp_path}" in done.stdout


def test_no_browser_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = installation.browser()
    assert (found.state, found.found[:10]) == ("ok", "no chromiu")
