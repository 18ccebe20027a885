"""``delegation.json`` in a bundle: when the model asks, which helper, and how often. A plain model has no such file."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from components.cascade.calibration import CallCalibration
from components.cascade.config import CascadeConfig
from components.cascade.helpers import Helper, open_helper
from components.core.records import read_record
from components.delegation.config import SelectionName
from components.model.bundle import Bundle


class DelegationRecord(BaseModel):
    """Contents of ``delegation.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    selection: SelectionName
    """What the model learned to delegate."""
    cascade: CascadeConfig
    """Budget, rule, unit and helper; ``auto`` is resolved, paths are absolute, the score is one that the model has."""
    calibration: CallCalibration
    """Quantiles of the score on held-out text."""

    @classmethod
    def load(cls, folder: Path) -> "DelegationRecord | None":
        """The record of the bundle in ``folder``, ``None`` if it has none; ``ArtifactError`` if it is damaged."""
        path = folder / Bundle.DELEGATION
        return read_record(path, cls, "a record of delegation") if path.is_file() else None


def open_bundled_helper(record: DelegationRecord, folder: Path, device: str) -> Helper:
    """The helper of the bundle in ``folder``; raises what ``open_helper`` raises."""
    facts, index = folder / Bundle.FACTS, folder / Bundle.RETRIEVAL
    return open_helper(
        record.cascade.helper,
        tokenizer=folder,
        facts=facts if facts.is_file() else None,
        corpus=index if index.is_dir() else None,
        device=device,
    )
