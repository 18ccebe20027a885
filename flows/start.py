"""The settings that a run starts with, and the model that ``start_from`` names to take the place of pretraining."""

from collections.abc import Sequence
from pathlib import Path

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.inputs import files_fingerprint
from components.core.record_digest import intact
from components.derive.llama2c_header import tokenizer_beside
from components.derive.shape import given_shape, is_llama2c
from components.training.trained import TrainedModel, model_folder
from conf.compose import compose_project
from conf.schema import ProjectConfig
from conf.services import TrackingConfig
from flows.adapters import prefect_ui
from flows.form import restrict_to_form
from flows.named_models import artifact_with_model, is_version, registry_of
from flows.promotion import CHALLENGER, CHAMPION
from flows.run import FlowRun, Stage

DERIVE = Stage("derive", "components.derive.stage:stage")
# Settings that the given model decides.
_ITS_OWN = ("model", "data.vocab_size")


def started(config: ProjectConfig, overrides: Sequence[str]) -> ProjectConfig:
    """``config`` with the place and the shape of the model that ``start_from`` names; unchanged if it names none.

    Raises ``InputError`` for settings beside it that the model decides, and for a reference that is no model;
    ``ArtifactError`` for a model that cannot be read.
    """
    if not config.start_from:
        return config
    keys = [override.partition("=")[0] for override in overrides]
    if clash := [key for key in keys if any(key == own or key.startswith(f"{own}.") for own in _ITS_OWN)]:
        raise InputError(
            f"start_from={config.start_from} brings its own shape and vocabulary: leave out {', '.join(clash)} "
            "(derive.context_length shortens its context)"
        )
    place = _place(config.start_from, config.tracking)
    shape = given_shape(model_folder(place), config.derive.context_length)
    return config.model_copy(update={"start_from": str(place), "model": shape})


def settled(preset: str, overrides: Sequence[str]) -> ProjectConfig:
    """The settings of a run: composed, within the rules of the form if that started it, and with ``start_from``."""
    config = compose_project(preset, overrides)
    if prefect_ui.is_from_deployment():
        restrict_to_form(config)
    return started(config, overrides)


def given_model(run: FlowRun) -> Artifact | None:
    """The model that ``start_from`` names, as the artifact of a training; ``None`` if it names none.

    What was trained here is taken over. Of all else, bundles included, the stage ``derive`` makes such an artifact.
    """
    if not run.config.start_from:
        return None
    if DERIVE.name in run.outcomes:
        return run.outcomes[DERIVE.name].artifact
    place = Path(run.config.start_from)
    made = artifact_with_model(place, "start_from")
    if made is not None and made.stage in TrainedModel.stages:
        _check_taken_over(run.config)
        return intact(made)
    if made is not None:
        return run.stage(DERIVE, run.config.derivation(""), bundle=made)
    return run.stage(DERIVE, run.config.derivation(str(place)), sources=_digests(place, run.config.derive.tokenizer))


def _place(reference: str, tracking: TrackingConfig) -> Path:
    path = Path(reference).expanduser().absolute()
    if path.exists() and not is_version(reference):
        if path.is_dir() or is_llama2c(path):
            return path
        raise InputError(f"start_from={reference} is a file: give a folder, or a llama2.c file, which ends in .bin")
    if "@" not in reference and not is_version(reference):
        raise InputError(
            f"start_from={reference} is no folder, no llama2.c file and no registered model ({CHAMPION}, {CHALLENGER}, "
            "the number of a version, or NAME@ALIAS)"
        )
    registry, version = registry_of(reference, tracking)
    return registry.resolve(version).folder


def _check_taken_over(config: ProjectConfig) -> None:
    if config.derive.context_length:
        raise InputError(
            f"start_from={config.start_from} was trained here and is taken over as it is: leave out "
            "derive.context_length, or give its folder model/, of which a model with another context is derived"
        )


def _digests(place: Path, tokenizer: str) -> dict[str, str]:
    """Of what the stage reads from outside, by names that do not change when the files move."""
    read = {"start_from": place}
    if is_llama2c(place):
        read["derive.tokenizer"] = tokenizer_beside(place, tokenizer)
    return {name: next(iter(files_fingerprint([str(path)]).values())) for name, path in read.items()}
