"""Adapters that are served beside their model: found, checked and read before the first request is answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.cascade.adapters import CascadeAdapter
from components.cascade.calibration import Calibration, CallCalibration
from components.core.artifact import RECORD, Artifact
from components.core.errors import ArtifactError, InputError
from components.core.records import read_record
from components.delegation.bundled import DelegationRecord
from components.model.adapters.files import CONFIG, QUANTISED, read_unmerged
from components.model.adapters.unmerged import Unmerged
from components.model.transformer import Transformer
from components.training.trained import TrainedModel


@dataclass(frozen=True)
class AdapterSources:
    """Where the adapters of a model are, by the names that requests give them."""

    folders: Mapping[str, str] = field(default_factory=dict)
    """Artifacts of finetuning, or folders in PEFT's format."""
    calibrations: Mapping[str, str] = field(default_factory=dict)
    """Of adapters that have one of their own: artifacts of the stage calibrate, or their file."""

    def load(self, model: Transformer, record: DelegationRecord | None) -> dict[str, CascadeAdapter]:
        """Read all of them for ``model``, whose weights are as its bundle has them.

        ``record``: of its bundle, ``None`` for a plain model.

        Raises ``InputError`` for a folder that is not there and a calibration that nothing would read,
        ``ArtifactError`` for an adapter that is damaged, belongs to other weights or cannot be served unmerged.
        """
        return {
            name: CascadeAdapter(_weights(model, name, Path(folder)), self._calibration(name, record))
            for name, folder in self.folders.items()
        }

    def _calibration(self, name: str, record: DelegationRecord | None) -> CallCalibration | None:
        given = self.calibrations.get(name)
        if given is None:
            return None
        if record is None:
            raise InputError(f"calibrations.{name}={given}, but the served model is a plain one, which never asks")
        path = Path(given)
        if path.is_dir():
            calibration = Calibration.open(path).verify().load()
        elif path.is_file():
            calibration = read_record(path, CallCalibration, "a calibration")
        else:
            raise InputError(f"calibrations.{name}={given} is neither an artifact of the stage calibrate nor a file")
        calibration.levels(record.cascade.call_score)  # so that a score that it lacks is known at once
        return calibration


def _weights(model: Transformer, name: str, given: Path) -> Unmerged:
    folder = _adapter_folder(name, given)
    if (folder / QUANTISED).is_dir():
        raise ArtifactError(
            f"adapters.{name}: the adapter in {folder} was trained on weights of its own, rounded to 4 bits (loftq), "
            "and cannot share the served ones: serve its merged model (release=true of `lacewing finetune` registers "
            "it), or train with finetune.adapter.kind=pissa, which starts alike and keeps the base"
        )
    try:
        return read_unmerged(model, folder)
    except ArtifactError as error:
        raise ArtifactError(f"adapters.{name}: {error}") from error


def _adapter_folder(name: str, given: Path) -> Path:
    """The folder in PEFT's format. What belongs to an artifact is checked against its record."""
    if not given.is_dir():
        raise InputError(
            f"adapters.{name}={given} is no folder: give an artifact of finetuning, or an adapter's folder"
        )
    if (given / RECORD).is_file():
        return _of_artifact(name, given)
    inside = given.parent
    if given.name == TrainedModel.ADAPTER and (inside / RECORD).is_file():
        return _of_artifact(name, inside)
    return given


def _of_artifact(name: str, folder: Path) -> Path:
    stage = Artifact.open(folder).stage
    if stage == "classify":
        raise ArtifactError(
            f"adapters.{name}: {folder} tells labels with a head of its own and writes no text: only adapters of chat, "
            "prefer and distill can be served"
        )
    artifact = TrainedModel.open(folder).verify()
    if not (folder / TrainedModel.ADAPTER / CONFIG).is_file():
        raise ArtifactError(
            f"adapters.{name}: all weights of {folder} were trained, so there is no adapter: serve it as a model of "
            "its own, or train with finetune.adapter.kind=lora"
        )
    return artifact.adapter_folder
