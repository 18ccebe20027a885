"""``delegation.json`` in a bundle: when the model asks, whom, and how often. A bundle without it is a plain model.

What the helper needs travels with the bundle where it is data (the fact table, the retrieval index). A larger model or
an endpoint is only referred to.
"""

import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.cascade.calibration import CALIBRATION, Calibration
from components.cascade.config import CascadeConfig, HelperConfig
from components.cascade.helpers import Helper, open_helper
from components.core.artifact import Artifact
from components.core.atomic import full_disk_explained, write_text
from components.core.errors import ArtifactError
from components.delegation.config import SELECTIONS_THAT_CALL, SelectionName

DELEGATION = "delegation.json"
FACTS = "facts.jsonl"
RETRIEVAL = "retrieval"
_FACT_TABLE = "raw/world/facts.jsonl"  # in a prepare artifact of the closed world


class DelegationRecord(BaseModel):
    """Contents of ``delegation.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    selection: SelectionName
    """What the model learned to delegate."""
    cascade: CascadeConfig
    """Budget, rule, unit and helper; ``auto`` is resolved, paths are absolute, the score is one that the model has."""
    calibration: Calibration
    """Quantiles of the score on held-out text."""

    @classmethod
    def load(cls, folder: Path) -> "DelegationRecord | None":
        """The record of the bundle in ``folder``, ``None`` if it has none; ``ArtifactError`` if it is damaged."""
        path = folder / DELEGATION
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactError(f"{path} cannot be read as a record of delegation: {error}") from error


def gather_delegation(
    folder: Path,
    config: CascadeConfig,
    delegated: Artifact,
    prepared: Artifact,
    calibrated: Artifact,
    assessed: Artifact | None,
) -> DelegationRecord:
    """Write ``delegation.json`` into ``folder``, and beside it what the helper needs to know.

    Arguments:
        config: how model and helper answer together.
        delegated: the trained model; its details say what it learned to delegate.
        prepared: the data, for the fact table or the retrieval index.
        calibrated: ``calibration.json``.
        assessed: the assessment of the cascade; an index that it made is taken over.
    """
    selection: SelectionName = delegated.details.get("delegation", {}).get("selection", "ntp")
    score = config.call_score
    if score == "call" and selection not in SELECTIONS_THAT_CALL:
        score = "entropy"  # it was never taught to call, so its uncertainty decides
    calibration = Calibration.load(calibrated.verify().path(CALIBRATION))
    calibration.levels(score)
    record = DelegationRecord(
        selection=selection,
        cascade=config.model_copy(
            update={"call_score": score, "helper": _with_knowledge(folder, config.helper, prepared, assessed)}
        ),
        calibration=calibration,
    )
    write_text(folder / DELEGATION, record.model_dump_json(indent=2) + "\n")
    return record


def open_bundled_helper(record: DelegationRecord, folder: Path, device: str) -> Helper:
    """The helper of the bundle in ``folder``; raises what ``open_helper`` raises."""
    facts, index = folder / FACTS, folder / RETRIEVAL
    return open_helper(
        record.cascade.helper,
        tokenizer=folder,
        facts=facts if facts.is_file() else None,
        corpus=index if index.is_dir() else None,
        device=device,
    )


def _with_knowledge(folder: Path, helper: HelperConfig, prepared: Artifact, assessed: Artifact | None) -> HelperConfig:
    """Copy the data of ``helper`` into ``folder``; returns its configuration as seen from there."""
    facts = prepared.folder / _FACT_TABLE
    kind = helper.kind
    if kind == "auto":
        kind = "world" if facts.is_file() else "retrieval"
    if kind == "world":
        with full_disk_explained(folder / FACTS):
            shutil.copyfile(prepared.path(_FACT_TABLE), folder / FACTS)
    if kind == "retrieval":
        with full_disk_explained(folder / RETRIEVAL):
            if assessed is not None and (assessed.folder / RETRIEVAL).is_dir():
                shutil.copytree(assessed.verify().path(RETRIEVAL), folder / RETRIEVAL, dirs_exist_ok=True)
            # Takes the copy if it is of this corpus, else makes an index.
            made = helper.model_copy(update={"kind": "retrieval"})
            open_helper(made, tokenizer=folder, corpus=prepared.folder, index=folder / RETRIEVAL).close()
    model = str(Path(helper.model).resolve()) if kind == "model" else helper.model
    return helper.model_copy(update={"kind": kind, "model": model})
