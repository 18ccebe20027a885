"""The environment of a stage: what its code imports, with what that requires, and nothing of the machine."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from components.core import packages
from components.core.packages import MISSING, environment_of, installed_version

ADAPTERS = {"mlflow", "mlflow-skinny", "prefect", "dvc", "hydra-core", "omegaconf", "pytest"}


@dataclass
class Fake:
    version: str
    requires: list[str] = field(default_factory=list)


INSTALLED = {
    "torch": Fake(
        "2.13.0+cu130",
        ["sympy>=1.13", 'nvidia-cudnn==9; platform_system == "Linux"', 'opt-einsum; extra == "opt-einsum"'],
    ),
    "sympy": Fake("1.14.0", ["mpmath", 'tomli; python_version < "3"']),
    "mpmath": Fake("1.3.0", ["sympy"]),
    "lightning": Fake("2.6.6", ["torch", "fsspec[http]"]),
    "fsspec": Fake("2026.9.0", ['aiohttp; extra == "http"', 'adlfs; extra == "azure"']),
    "aiohttp": Fake("3.0"),
    "nvidia-cudnn": Fake("9"),
}


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches = (packages._providers, packages._with_requirements)
    monkeypatch.setattr(packages, "_distribution", INSTALLED.get)
    monkeypatch.setattr(packages, "_all_providers", lambda: {"yaml": ["PyYAML"]})
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("_fakes")
@pytest.mark.parametrize(
    ("imported", "names"),
    [
        (["math", "json"], set()),
        (["torch"], {"torch", "sympy", "mpmath"}),
        (["lightning"], {"lightning", "torch", "sympy", "mpmath", "fsspec", "aiohttp"}),
        (["fsspec"], {"fsspec"}),
        (["yaml"], {"pyyaml"}),
        (["spacy"], {"spacy"}),
    ],
)
def test_a_package_counts_with_what_it_requires(imported: list[str], names: set[str]) -> None:
    assert environment_of(imported).keys() - {"python"} == names


@pytest.mark.usefixtures("_fakes")
def test_a_version_is_the_same_for_every_build_of_it() -> None:
    assert environment_of(["torch"])["torch"] == "2.13.0"


@pytest.mark.usefixtures("_fakes")
def test_what_is_not_installed_is_said_to_be_so() -> None:
    assert environment_of(["spacy"])["spacy"] == MISSING


def test_training_depends_on_torch_and_on_no_adapter() -> None:
    found = environment_of(["torch", "lightning", "pydantic", "numpy", "safetensors"])
    assert found["torch"] == installed_version("torch") != MISSING
    assert found["python"].count(".") == 1
    assert not ADAPTERS & found.keys()
