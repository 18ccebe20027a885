"""The first-party source below a folder at one moment: its modules, and the data files that lie beside them."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from components.core.syntax import Module, read_module

_NO_DATA = frozenset({".py", ".pyc", ".pyi", ".so", ".typed"})

Files = tuple[tuple[str, bytes | None], ...]
"""Paths with the source of Python files; data files are read when their digest is asked for."""


class SourceTree:
    """Modules are parsed when they are asked for."""

    def __init__(self, root: Path, files: Files) -> None:
        self._root = root
        self._source = {_module_name(path): (path, text) for path, text in files if text is not None}
        self._data = [path for path, text in files if text is None]
        self._data_below: dict[str, dict[str, set[str]]] = {}
        self._run: dict[str, frozenset[str]] = {}
        self.packages = {first_name(name) for name in self._source}

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __contains__(self, name: str) -> bool:
        return name in self._source

    def module(self, name: str) -> Module:
        """The definitions of a module."""
        path, text = self._source[name]
        return read_module(name, path.endswith("/__init__.py"), text)

    def defines(self, module: str, name: str) -> bool:
        """Is there such a definition in such a module?"""
        return module in self and name in self.module(module).definitions

    def run_by_import(self, name: str) -> frozenset[str]:
        """Modules that run when ``a.b.c`` is imported: a, a.b and a.b.c."""
        if name not in self._run:
            self._run[name] = frozenset(each for each in prefixes(name.split(".")) if each in self._source)
        return self._run[name]

    def data_files(self, module: str, text: str) -> set[str]:
        """Data files in and below the folder of ``module`` that ``text`` names, by relative path or by bare name."""
        folder = self._source[module][0].rpartition("/")[0]
        if folder not in self._data_below:
            self._data_below[folder] = self._by_name(folder)
        return self._data_below[folder].get(text, set())

    def data_digest(self, path: str) -> str:
        """Digest of a data file; of JSON its values, so that layout does not count."""
        content = (self._root / path).read_bytes()
        if path.endswith(".json"):
            try:
                return digest(json.loads(content))
            except ValueError:  # half an edit; the stage will say what is wrong with it
                pass
        return sha256(content).hexdigest()[:16]

    def _by_name(self, folder: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for path in self._data:
            if path.startswith(f"{folder}/"):
                for name in (path[len(folder) + 1 :], path.rpartition("/")[2]):
                    found.setdefault(name, set()).add(path)
        return found


def read_files(root: Path, packages: Iterable[str]) -> Files:
    """The files of ``packages`` below ``root``."""
    return tuple(_files(root, sorted(packages)))


def digest(value: Any) -> str:
    """Digest of ``value`` as canonical JSON; as long as needed to tell one definition from its next version."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def first_name(dotted: str) -> str:
    """``a`` of ``a.b.c``."""
    return dotted.partition(".")[0]


def prefixes(parts: Sequence[str]) -> Iterator[str]:
    """``a.b.c``, ``a.b`` and ``a``."""
    return (".".join(parts[:length]) for length in range(len(parts), 0, -1))


@lru_cache(maxsize=2048)
def _is_data(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix not in _NO_DATA


def _files(root: Path, packages: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    for package in packages:
        for folder, inner, names in os.walk(root / package):
            inner[:] = sorted(name for name in inner if name != "__pycache__" and not name.startswith("."))
            place = os.path.relpath(folder, root).replace(os.sep, "/")
            for name in sorted(names):
                if name.endswith(".py"):
                    with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123 - hundreds of files for every stage
                        yield f"{place}/{name}", file.read()
                elif _is_data(name):
                    yield f"{place}/{name}", None


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
