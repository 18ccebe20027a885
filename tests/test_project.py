"""Promises of the house that no single package can keep: names, dependencies, what a person is shown."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

BUILDS_A_LLAMA = """
import transformers
config = transformers.LlamaConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
)
print(type(transformers.LlamaForCausalLM(config)).__name__)
"""


def test_transformers_works_from_the_repository_root_beside_our_kernels_folder() -> None:
    """PyPI has a package called ``kernels`` that transformers probes; ours must not be mistaken for it."""
    done = subprocess.run([sys.executable, "-c", BUILDS_A_LLAMA], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "LlamaForCausalLM", done.stderr


def test_importing_kernels_loads_neither_torch_nor_triton() -> None:
    program = "import sys, kernels; print([m for m in ('torch', 'triton') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_prefect_server_imports_with_the_locked_fastapi() -> None:
    """prefect 3.8.8 accepts every fastapi below 1.0 and does not import with 0.151 and later."""
    program = "import flows, prefect.server.api.server"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().lower().splitlines())
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    for text in [*project["dependencies"], *extras]:
        requirement = Requirement(text)
        if requirement.name != "lacewing":
            name = requirement.name.lower()
            pinned = locked.get(name) or locked[name.replace("-", "_")]
            assert requirement.specifier.contains(pinned), f"{text} does not admit {pinned}"


def test_the_installed_versions_are_the_locked_ones() -> None:
    locked = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    for name in ("prefect", "fastapi", "mlflow", "dvc", "lightning", "hydra-core", "tokenizers"):
        assert version(name) == locked[name]


@pytest.mark.parametrize("path", ["README.md", "docs/decisions.md", "CHANGELOG.md"])
def test_links_and_pictures_of_the_documents_exist(path: str) -> None:
    text = (ROOT / path).read_text()
    targets = [part.split(")")[0] for part in text.split("](")[1:]]
    local = [target for target in targets if not target.startswith(("http://", "https://", "#"))]
    missing = [target for target in local if not (ROOT / Path(path).parent / target).exists()]
    assert missing == []


def test_every_command_in_the_readme_is_a_command() -> None:
    from flows import cli

    lines = (ROOT / "README.md").read_text().splitlines()
    used = [line.split()[1] for line in lines if line.startswith("lacewing ")]
    assert used
    assert set(used) <= {*cli.FLOWS, *cli.COMMANDS, "--help"}
