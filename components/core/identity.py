"""Identity of a stage: the key under which its result is stored and found again.

key = hash(stage name, resolved config slice, input keys, digest of the transitive first-party source, lock digest).
Prefect's own TASK_SOURCE cache policy misses edited helper functions; this one follows imports.
"""

import ast
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

PROJECT_ROOT = Path(__file__).resolve().parents[2]
FIRST_PARTY = ("components", "kernels")
LOCK_FILE = PROJECT_ROOT / "constraints.txt"


class Identity(BaseModel):
    """Everything that decides a stage's output, and the key that follows from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    stage: str
    """Name of the stage, for example ``pretrain``."""
    key: str
    """32 hexadecimal digits over all the fields below and the stage's name."""
    config: dict[str, Any]
    """The resolved configuration slice of this stage."""
    inputs: dict[str, str]
    """Key of every input artifact by role, and the content digest of every outside source."""
    code: str
    """Digest of the transitive first-party source of the stage's module."""
    lock: str
    """Digest of the environment lock and the Python version."""

    @classmethod
    def of(cls, stage: str, module: str, config: BaseModel, inputs: Mapping[str, str]) -> "Identity":
        """Compute the identity of ``stage``, implemented in ``module``, for this config and these input keys."""
        parts = {
            "stage": stage,
            "config": config.model_dump(mode="json"),
            "inputs": dict(inputs),
            "code": source_digest(module),
            "lock": lock_digest(),
        }
        return cls(key=digest_json(parts)[:32], **parts)


def digest_json(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock_digest() -> str:
    """Digest of the constraints file (when run from a checkout) and of the Python minor version."""
    lock = digest_file(LOCK_FILE) if LOCK_FILE.exists() else "no lock"
    return digest_json([lock, ".".join(platform.python_version_tuple()[:2])])[:16]


def source_digest(module: str, root: Path = PROJECT_ROOT) -> str:
    """Digest of ``module`` and of every first-party module it imports, directly or not.

    Comments, docstrings and layout do not count; a changed statement anywhere downstream of the imports does.
    Data files lying beside a module (word lists, templates) count as part of it.
    """
    modules = _reachable(module, root)
    return digest_json({name: _module_digest(path) for name, path in sorted(modules.items())})[:16]


def _reachable(module: str, root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        path = _module_file(name, root)
        if name in found or path is None:
            continue
        found[name] = path
        queue.extend(_imports(name, path))
        if "." in name:
            queue.append(name.rpartition(".")[0])  # importing a.b runs a/__init__ first
    return found


def _module_file(name: str, root: Path) -> Path | None:
    if name.split(".")[0] not in FIRST_PARTY:
        return None
    base = root.joinpath(*name.split("."))
    candidates: Sequence[Path] = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def _imports(name: str, path: Path) -> list[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(_parsed(path, path.stat().st_mtime_ns)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # ``from a import b``: b may be a module or a name in a; a file decides.
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _module_digest(path: Path) -> str:
    beside = sorted(
        entry
        for entry in path.parent.iterdir()
        if entry.is_file() and entry.suffix not in {".py", ".pyc", ".so"} and not entry.name.startswith(".")
    )
    return digest_json(
        [_code_digest(path, path.stat().st_mtime_ns), {entry.name: digest_file(entry) for entry in beside}]
    )


@cache
def _parsed(path: Path, modified_ns: int) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


@cache
def _code_digest(path: Path, modified_ns: int) -> str:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # bare strings are documentation: they cannot change what the code does
            node.body = [line for line in body if not _is_bare_string(line)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_bare_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
