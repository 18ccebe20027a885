"""Promises of the house that no single package can keep: names, dependencies, what a person is shown."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

NUMBER = re.compile(r"\d[\d.,]*")
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


DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_and_pictures_of_the_documents_exist(path: str) -> None:
    text = (ROOT / path).read_text()
    targets = [part.split(")")[0] for part in text.split("](")[1:]]
    local = [target for target in targets if not target.startswith(("http://", "https://", "#"))]
    missing = [target for target in local if not (ROOT / Path(path).parent / target.partition("#")[0]).exists()]
    assert missing == []


def test_every_picture_is_shown() -> None:
    shown = "".join((ROOT / path).read_text() for path in DOCUMENTS)
    assert [path.name for path in (ROOT / "docs" / "images").iterdir() if path.name not in shown] == []


def test_the_readme_can_be_read_in_three_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_the_readme_lists_the_folders_that_there_are() -> None:
    tree = (ROOT / "README.md").read_text().partition("## Where things are")[2].split("```")[1]
    listed = re.findall(r"^(  )?(\w+)/ ", tree, flags=re.MULTILINE)
    top = {name for indent, name in listed if not indent}
    rooms = {name for indent, name in listed if indent}
    assert all((ROOT / name).is_dir() for name in top)
    assert {"flows", "components", "conf", "kernels"} <= top
    assert rooms == {path.parent.name for path in (ROOT / "components").glob("*/__init__.py")}


def test_the_readme_shows_what_the_page_of_results_holds() -> None:
    """Both are written by the same commands; a number that was changed by hand in one of them would be found here."""
    readme, results = (ROOT / "README.md").read_text(), (ROOT / "docs" / "results.md").read_text()
    for section in ("study", "pipeline output"):
        shown, full = (between_markers(text, section) for text in (readme, results))
        numbers = [number for line in shown.splitlines() if "---" not in line for number in NUMBER.findall(line)]
        assert len(numbers) > 10
        assert [number for number in numbers if number not in NUMBER.findall(full)] == []


def between_markers(text: str, section: str) -> str:
    return text.partition(f"<!-- begin {section} -->")[2].partition(f"<!-- end {section} -->")[0]


def test_every_command_in_the_readme_is_a_command() -> None:
    from flows.catalogue import flows
    from flows.commands import COMMANDS

    lines = (ROOT / "README.md").read_text().splitlines()
    used = [line.split()[1] for line in lines if line.startswith("lacewing ")]
    assert used
    assert set(used) <= {*flows(), *COMMANDS, "--help"}
