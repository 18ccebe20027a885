"""Versions of the third-party packages that code depends on: those it imports, and what they require in turn.

Nothing is imported for it; the metadata of the installed distributions says everything. Two things are left out, so
that the same code has the same environment on a laptop and on a GPU machine: the local part of a version (the builds
``2.13.0+cpu`` and ``2.13.0+cu130`` of torch differ in who computes), and requirements for some platforms only (the CUDA
libraries that one of these builds brings).
"""

import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MISSING = "not installed"
_PLATFORM_MARKERS = ("platform_system", "sys_platform", "platform_machine", "os_name", "platform_release")

VersionOf = Callable[[str], str]


def installed_version(name: str) -> str:
    """Version of the distribution ``name`` without its local part; ``MISSING`` if it is not installed."""
    found = _distribution(name)
    return found.version.partition("+")[0] if found else MISSING


def environment_of(packages: Iterable[str], version_of: VersionOf = installed_version) -> dict[str, str]:
    """Versions by distribution for code that imports ``packages`` (top-level names), and of Python itself.

    Names of the standard library count with Python. A package that is not installed is listed as such: code that asks
    whether it is there does something else afterwards.
    """
    names: set[str] = set()
    for package in packages:
        if package not in sys.stdlib_module_names:
            names.update(*map(_with_requirements, _providers(package)))
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: version_of(name) for name in sorted(names)}}


@cache
def _providers(package: str) -> tuple[str, ...]:
    """Distributions that an import of ``package`` comes from."""
    if _distribution(package):  # nearly all are called like their package, and the full table takes half a second
        return (canonicalize_name(package),)
    return tuple(sorted({canonicalize_name(name) for name in _all_providers().get(package, [package])}))


@cache
def _all_providers() -> Mapping[str, list[str]]:
    return packages_distributions()


@cache
def _with_requirements(name: str) -> frozenset[str]:
    """``name`` and every distribution that it requires, directly or not."""
    seen: set[tuple[str, str]] = set()
    queue = [(name, "")]
    while queue:
        entry = queue.pop()
        if entry not in seen:
            seen.add(entry)
            queue.extend(_required(*entry))
    return frozenset(name for name, _ in seen)


def _required(name: str, extra: str) -> Iterable[tuple[str, str]]:
    found = _distribution(name)
    for line in (found.requires if found else None) or []:
        requirement = Requirement(line)
        if _applies(requirement.marker, extra):
            required = canonicalize_name(requirement.name)
            yield from ((required, asked) for asked in ("", *requirement.extras))


def _applies(marker: Marker | None, extra: str) -> bool:
    if marker is None:
        return not extra  # counted with the distribution itself
    text = str(marker)
    return not any(name in text for name in _PLATFORM_MARKERS) and marker.evaluate({"extra": extra})


@cache
def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
