"""One file makes a flow: it is in the command line, its help, the form, the dry run and the docs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conf.compose import keys
from conf.schema import ProjectConfig
from flows import reference
from flows.catalogue import flow, flows
from flows.cli import help_page
from flows.entrypoints import prefect_flow
from flows.run import Stage
from tests.conftest import ROOT

NOTHING = '''"""Flow ``rest``: nothing at all."""

from flows.catalogue import flow
from flows.run import FlowRun


@flow("do nothing, and say so", example="trainer.seed=1")
def rest(run: FlowRun) -> None:
    """Do nothing.

    It is the shortest flow there is.
    """
    print(f"resting under seed {run.config.trainer.seed}")
'''

SHOW = """
import asyncio
from flows.deployments import deployments
(found,) = [each for each in deployments() if each.flow_name == "rest"]
print(found.name, found.entrypoint, sorted(found._parameter_openapi_schema.properties))
print(found._parameter_openapi_schema.properties["overrides"]["description"])
from prefect.flows import load_flow_from_entrypoint
print(load_flow_from_entrypoint(found.entrypoint).name)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with one file more."""
    folder = tmp_path_factory.mktemp("house")
    for package in ("flows", "conf", "components", "kernels"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    (folder / "flows" / "rest.py").write_text(NOTHING)
    return folder


def python(house: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(house), "LACEWING_WORKSPACE": str(house / "workspace")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=house, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_flow_is_in_the_help(house: Path) -> None:
    assert "\n  rest       do nothing, and say so\n" in python(house, "-m", "flows.cli", "--help")
    own = python(house, "-m", "flows.cli", "rest", "--help")
    assert own.startswith("lacewing rest: do nothing, and say so\n\nexample: lacewing rest trainer.seed=1\n")


def test_a_new_flow_can_be_planned_and_run(house: Path) -> None:
    assert "resting under seed 7" in python(house, "-m", "flows.cli", "rest", "trainer.seed=7", "--dry-run")
    assert not (house / "workspace").exists()
    assert "resting under seed 5" in python(house, "-m", "flows.cli", "rest", "trainer.seed=5")


def test_a_new_flow_has_a_deployment_with_its_form(house: Path) -> None:
    deployment, help_text, name = python(house, "-c", SHOW).splitlines()
    assert deployment == "rest flows.entrypoints.rest ['overrides', 'preset']"
    assert help_text == "Changes to it, each `key=value`, for example `trainer.seed=1`."
    assert name == "rest"


def test_a_new_flow_is_in_the_docs(house: Path) -> None:
    python(house, "-m", "flows.reference")
    text = (house / "docs" / "reference.md").read_text()
    assert "### lacewing rest\n\nDo nothing.\n\nIt is the shortest flow there is.\n" in text


def test_the_reference_in_the_docs_is_the_one_that_is_made() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `make reference`"


def test_the_order_is_that_of_the_work() -> None:
    training = ["pipeline", "prepare", "derive", "pretrain", "label", "delegate", "finetune", "study", "sweep"]
    assert list(flows()) == [*training, "assess", "evaluate", "compare", "arena", "board", "release"]
    assert help_page().index("\n  prepare") < help_page().index("\n  release")


@pytest.mark.parametrize("name", flows())
def test_an_example_names_a_key_that_exists(name: str) -> None:
    entry = flows()[name]
    (override, *_) = entry.qualified([entry.example])
    assert override.partition("=")[0] in {*keys(ProjectConfig), "model"}


def test_the_form_describes_both_fields() -> None:
    form = prefect_flow(flows()["prepare"]).parameters.properties
    assert form["preset"]["description"] == "Experiment to start from."
    assert "data.vocab_size=4096" in form["overrides"]["description"]


def test_an_unknown_entry_point_is_an_attribute_error() -> None:
    from flows import entrypoints

    with pytest.raises(AttributeError, match="nothing_like_that"):
        _ = entrypoints.nothing_like_that


def test_declaring_leaves_the_function_as_it_is() -> None:
    def function(run: object) -> None: ...

    assert flow("words", example="a=b")(function) is function


def test_every_stage_of_the_flows_names_a_function_that_exists() -> None:
    from importlib import import_module

    stages = [
        value
        for entry in flows().values()
        for value in vars(import_module(entry.module)).values()
        if isinstance(value, Stage)
    ]
    assert len(stages) >= 9
    for stage in stages:
        module, _, name = stage.function.partition(":")
        assert callable(getattr(import_module(module), name))
