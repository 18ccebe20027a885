"""Are Python and the packages those that Lacewing was made for? Read from what is installed; nothing is imported."""

import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.doctor.finding import Finding, fault, ok, warning

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

US = "lacewing"
ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "constraints.txt"
PROJECT = ROOT / "pyproject.toml"
PACKAGES = ("flows", "conf", "components", "kernels")
SHOWN = 4
# What each extra is for, but `dev`, which is for developers.
EXTRAS: Mapping[str, str] = {
    "s3": "DVC remotes on S3",
    "postgres": "an MLflow server on PostgreSQL",
    "hub": "Hugging Face data sets and models",
    "peft": "adapters",
    "sweep": "lacewing sweep",
    "gguf": "models for llama.cpp",
    "onnx": "models for ONNX Runtime",
    "harness": "published tasks",
}


class Clash(NamedTuple):
    """Packages that pip lets stand side by side, and that do not work together or with us."""

    package: str
    bad: str
    """Versions of it; empty: any."""
    why: str
    instead: str
    """What to hand to pip; empty: uninstall it."""
    beside: str = ""
    """Only a clash if this package is there in the versions ``beside_versions``."""
    beside_versions: str = ""


CLASHES = (
    Clash("fastapi", ">=0.151", "the server of prefect 3.8 does not import", "fastapi<0.151", "prefect", "<3.9.1"),
    Clash("lightning", "==2.6.2", "this release was malware (GHSA-w37p-236h-pfx3)", "lightning==2.6.6"),
    Clash("lightning", "==2.6.3", "this release was malware (GHSA-w37p-236h-pfx3)", "lightning==2.6.6"),
    Clash("hydra-core", ">=1.4.0.dev0", "lm_eval[math] brings it; Lacewing needs Hydra 1.3", "hydra-core<1.4"),
    Clash("antlr4-python3-runtime", "!=4.9.*", "Hydra 1.3 reads its grammar with 4.9", "antlr4-python3-runtime==4.9.*"),
    Clash("transformers", "<5.13", "it takes our folder kernels/ for a package from PyPI", "transformers>=5.13,<6"),
    Clash("kernels", "", "this package from PyPI has the name of our folder kernels/", ""),
    Clash("hydra-optuna-sweeper", "", "it needs optuna 2.10, and lacewing sweep optuna 5", ""),
    Clash("vllm", "", "it brings a torch, a triton and a transformers of its own: give it its own environment", ""),
    Clash("zenml", "", "it brings a fastapi and a pydantic of its own: give it its own environment", ""),
    Clash("oumi", "", "it brings an omegaconf of its own: give it its own environment", ""),
)


def python() -> Finding:
    """Whether Lacewing runs on this Python."""
    from packaging.specifiers import SpecifierSet

    allowed = _project()["requires-python"]
    version = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(allowed).contains(version, prereleases=True):
        return ok(f"{version} at {sys.executable}")
    return fault(
        f"{version} at {sys.executable}; Lacewing needs {allowed}", "make clean && make run PYTHON=/path/to/python3.11"
    )


def own_code() -> Finding:
    """Whether our packages, whose names are common words, come from one place."""
    places = {package: _place(package) for package in PACKAGES}
    strangers = [f"{package} is {place}" for package, place in places.items() if place != ROOT]
    if not _version(US):
        return fault(f"the code at {ROOT} is not installed in {sys.executable}", "make run, or pip install -e .")
    if not strangers:
        return ok(f"{_version(US)} from {ROOT}")
    return fault(
        f"{'; '.join(strangers)}; ours is {ROOT}",
        "unset PYTHONPATH, leave folders that hold other packages of these names, or uninstall those",
    )


def _place(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).resolve().parents[1] if spec and spec.origin else None


def requirements() -> Finding:
    """Whether Lacewing's packages, and those that they need in turn, have the versions that are asked for."""
    misfits = list(dict.fromkeys(_misfits(US)))
    if not misfits:
        return ok(f"prefect {_version('prefect')}, mlflow {_version('mlflow')}, torch {_version('torch')} and the rest")
    return fault(_listed([words for words, _ in misfits]), _pip(*(needed for _, needed in misfits)))


def clashes() -> Finding:
    """Whether something is installed that is known not to work here, although pip is content."""
    found = [clash for clash in CLASHES if _is_there(clash)]
    if not found:
        return ok("nothing is installed that is known to break it")
    words = [f"{clash.package} {_version(clash.package)}: {clash.why}" for clash in found]
    commands = [_pip(clash.instead) if clash.instead else _python(f"pip uninstall {clash.package}") for clash in found]
    return fault("; ".join(words), " && ".join(dict.fromkeys(commands)))


def lock() -> Finding:
    """Whether the versions are those that the tests ran with."""
    if not LOCK.exists():
        return ok(f"no {LOCK.name} beside this installation to compare with")
    locked = dict(line.strip().split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    found = {name: _version(name) for name in locked}
    other = [
        f"{name} {found[name]} instead of {version}"
        for name, version in locked.items()
        if found[name] and _public(found[name]) != version
    ]
    if not other:
        return ok(f"the {sum(map(bool, found.values()))} installed packages of {LOCK.name} have its versions")
    return warning(_listed(other), _python(f"pip install -c {LOCK} -e {ROOT}"))


def extras() -> Finding:
    """Which optional parts are installed."""
    there: list[str] = []
    missing: list[str] = []
    wrong: list[tuple[str, str]] = []
    for extra, purpose in EXTRAS.items():
        own = _of_extra(extra)
        if absent := [requirement.name for requirement in own if not _version(requirement.name)]:
            missing.append(f"{extra} ({purpose}; lacks {', '.join(absent)})")
        else:
            there.append(f"{extra} ({purpose})")
        wrong += [found for each in own if each.name not in absent and (found := _misfit(US, each))]
    words = f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(missing) or 'none'}"
    if wrong:
        return warning(f"{_listed([text for text, _ in wrong])}. {words}", _pip(*(needed for _, needed in wrong)))
    return ok(words)


def browser() -> Finding:
    """Chromium, which nothing but the tests of the pages needs."""
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    if missing:
        return ok(f"no {' or '.join(missing)}; only `make browser-test` and `make screenshots` need it")
    return ok("chromium and chromedriver are there for `make browser-test`")


def _misfits(root: str) -> Iterator[tuple[str, str]]:
    """What is missing or has the wrong version, in words and as pip would take it, below the distribution ``root``."""
    first = (root, frozenset[str]())
    seen, waiting = {first}, [first]
    while waiting:
        owner, extras = waiting.pop(0)
        for requirement in _requirements(owner, extras):
            needed = (_name(requirement.name), frozenset(requirement.extras))
            if misfit := _misfit(owner, requirement):
                yield misfit
            elif needed not in seen:
                seen.add(needed)
                waiting.append(needed)


def _misfit(owner: str, requirement: "Requirement") -> tuple[str, str] | None:
    version = _version(requirement.name)
    if version and requirement.specifier.contains(version, prereleases=True):
        return None
    wanted = f"{requirement.name}{requirement.specifier}"
    return f"{owner} needs {wanted}, {f'and {version} is installed' if version else 'which is not installed'}", wanted


def _requirements(distribution: str, extras: Collection[str] = ()) -> "Iterator[Requirement]":
    """What a distribution needs on this machine, with some of its extras."""
    from packaging.requirements import Requirement

    for line in _project()["dependencies"] if distribution == US else metadata.requires(distribution) or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in ("", *extras)):
            yield requirement


def _of_extra(extra: str) -> "list[Requirement]":
    """What an extra of our own needs."""
    from packaging.requirements import Requirement

    return [Requirement(line) for line in _project()["optional-dependencies"][extra]]


def _project() -> dict[str, Any]:
    """The table ``project`` of the code that runs: what is installed may have been asked for by an older one.

    Of an installation without ``pyproject.toml``, the same from its metadata.
    """
    if PROJECT.exists():
        project: dict[str, Any] = tomllib.loads(PROJECT.read_text())["project"]
        return project
    lines = metadata.requires(US) or []
    of_extras = {extra: [line for line in lines if f'extra == "{extra}"' in line] for extra in EXTRAS}
    return {
        "requires-python": metadata.metadata(US)["Requires-Python"],
        "dependencies": [line for line in lines if "extra ==" not in line],
        "optional-dependencies": {extra: [line.partition(";")[0] for line in own] for extra, own in of_extras.items()},
    }


def _is_there(clash: Clash) -> bool:
    from packaging.specifiers import SpecifierSet

    version, beside = _version(clash.package), _version(clash.beside) if clash.beside else ""
    return _within(version, SpecifierSet(clash.bad)) and (
        not clash.beside or _within(beside, SpecifierSet(clash.beside_versions))
    )


def _within(version: str, versions: "SpecifierSet") -> bool:
    return bool(version) and versions.contains(version, prereleases=True)


def _version(distribution: str) -> str:
    """Version of an installed distribution; empty if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _public(version: str) -> str:
    """Without the local part: torch's CPU build is 2.13.0+cpu."""
    return version.partition("+")[0]


def _name(requirement: str) -> str:
    """The name alone, as package indexes spell it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def _listed(words: list[str]) -> str:
    more = len(words) - SHOWN
    return "; ".join(words[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _pip(*requirements: str) -> str:
    constraints = ["-c", str(LOCK)] if LOCK.exists() else []
    return _python(f"pip install {shlex.join([*constraints, *dict.fromkeys(requirements)])}")


def _python(module: str) -> str:
    return f"{sys.executable} -m {module}"
