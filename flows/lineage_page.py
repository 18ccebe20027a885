"""How a lineage looks on the terminal: a tree, each artifact spelled out once."""

from rich.text import Text
from rich.tree import Tree

from components.core.artifact import Artifact
from flows.adapters.mlflow_registry import Version
from flows.lineage import Origin
from flows.promotion import PROMOTED_AT, PROMOTED_BY, REASON

_SHOWN = 16  # digits of a key, as in the names of folders
_RAW_FILES = 8


def tree(origin: Origin, version: Version | None) -> Tree:
    """The tree of what a model was made from; ``version``: of the registry, if it is one."""
    root = Tree(Text(_version(version) if version else str(origin.artifact and origin.artifact.folder)))
    _add(root, origin, set())
    return root


def _version(version: Version) -> str:
    tags = version.tags
    if PROMOTED_AT not in tags:
        return f"{version.model} version {version.number}, never champion"
    by, reason = tags.get(PROMOTED_BY, "unknown"), tags.get(REASON) or "no reason given"
    return f"{version.model} version {version.number}, promoted {tags[PROMOTED_AT]} by {by}: {reason}"


def _add(parent: Tree, origin: Origin, told: set[str]) -> None:
    artifact = origin.artifact
    if artifact is None:
        where = "not in this workspace" if origin.missing else "from outside"
        parent.add(Text(f"{origin.name}  {origin.content[:_SHOWN]}  {where}"))
        return
    line = Text(origin.name if origin.name == artifact.stage else f"{origin.name}: {artifact.stage}", style="bold")
    line.append(f"  {artifact.key[:_SHOWN]}", style="not bold")
    if artifact.key in told:
        parent.add(line.append("  as above", style="not bold dim"))
        return
    told.add(artifact.key)
    branch = parent.add(line.append(f"  {artifact.record.created:%Y-%m-%d %H:%M} UTC", style="not bold dim"))
    for each in origin.inputs:
        _add(branch, each, told)
    _add_raw(branch, artifact)


def _add_raw(branch: Tree, artifact: Artifact) -> None:
    raw = {name: file for name, file in artifact.record.files.items() if name.startswith("raw/")}
    for name, file in list(raw.items())[:_RAW_FILES]:
        branch.add(Text(f"{name}  {file.bytes:,} bytes  sha256 {file.sha256[:_SHOWN]}", style="dim"))
    if len(raw) > _RAW_FILES:
        branch.add(Text(f"and {len(raw) - _RAW_FILES} more files", style="dim"))
