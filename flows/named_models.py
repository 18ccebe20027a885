"""Models that a person names: by an alias, a version or ``NAME@ALIAS`` of the registry, or by a folder."""

from pathlib import Path

from components.core.artifact import RECORD, Artifact
from components.core.errors import InputError
from components.model.bundle import Bundle
from components.training.trained import TrainedModel
from conf.services import TrackingConfig
from flows.promotion import CHALLENGER, CHAMPION, Registry


def is_version(reference: str) -> bool:
    """Whether ``reference`` is an alias or the number of a version, whatever lies in a folder of that name."""
    return reference in (CHAMPION, CHALLENGER) or reference.isdigit()


def registry_of(reference: str, tracking: TrackingConfig) -> tuple[Registry, str]:
    """The registry that ``reference`` speaks of, and the alias or version in it."""
    name, _, version = reference.rpartition("@")
    return Registry(tracking.model_copy(update={"registered_model": name}) if name else tracking), version


def artifact_with_model(folder: Path, setting: str) -> Artifact | None:
    """The artifact in ``folder``, if it is one; raises ``InputError`` naming ``setting`` if it holds no model."""
    if not (folder / RECORD).is_file():
        return None
    artifact = Artifact.open(folder)
    holding = (*Bundle.stages, *TrainedModel.stages)
    if artifact.stage not in holding:
        raise InputError(
            f"{setting}={folder} is an artifact of the stage {artifact.stage!r}, which holds no model: "
            f"give one of {', '.join(holding)}"
        )
    return artifact
