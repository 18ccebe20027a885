"""Flow ``delegate``: a model that knows when to ask, the threshold at which it asks, and what the asking is worth."""

from dataclasses import dataclass

from prefect import flow

from components.core.artifact import Artifact
from components.core.inputs import files_fingerprint, models_fingerprint
from components.evaluation.factuality.report import embedded_report
from conf.compose import Preset
from flows import prefect_ui
from flows.label import label_facts
from flows.outcome import Summary, finished
from flows.prepare import prepare_data
from flows.pretrain import pretrain_model
from flows.stage import FlowRun, Stage, start_flow_run

DELEGATE = Stage("delegate", "components.delegation.train:stage", "components.delegation.config:DelegateConfig")
CALIBRATE = Stage("calibrate", "components.delegation.calibrate:stage", "components.delegation.config:CalibrateConfig")
CASCADE = Stage(
    "cascade", "components.evaluation.factuality.stage:stage", "components.evaluation.config:CascadeAssessConfig"
)


@dataclass(frozen=True)
class Delegated:
    """A model that knows when to ask, and what was found out about it."""

    model: Artifact
    calibration: Artifact
    cascade: Artifact


def delegate_model(run: FlowRun, data: Artifact) -> Delegated:
    """Labels, training, calibration, and the cascade over all call budgets."""
    labels = label_facts(run, data)
    # Facts are what is handed over, so the model that keeps them all is always there to compare with.
    plain = pretrain_model(run, data)
    start = plain if run.config.delegation.start == "checkpoint" else None
    settings = run.config.delegate
    asked = models_fingerprint(
        {"delegation.reference": settings.delegation.reference, "cascade.helper.model": settings.helper.model}
    )
    model = run.stage(DELEGATE, settings, prepared=data, labels=labels, pretrained=start, sources=asked)
    calibration = run.stage(CALIBRATE, run.config.calibrate, delegated=model, prepared=data, labels=labels)
    cascade = run.stage(
        CASCADE,
        run.config.cascade_assess,
        delegated=model,
        calibration=calibration,
        prepared=data,
        labels=labels,
        pretrained=plain,
        sources=_read_from_outside(run),
    )
    if not run.dry:
        prefect_ui.page("cascade-report", embedded_report(cascade.folder), "What asking is worth")
    return Delegated(model, calibration, cascade)


def _read_from_outside(run: FlowRun) -> dict[str, str]:
    facts = run.config.facts
    judged = facts.factscore
    return {
        **models_fingerprint({"cascade.helper.model": run.config.cascade.helper.model}),
        **files_fingerprint([*facts.probes.files, judged.entities, *judged.knowledge, judged.pipeline]),
    }


@flow(name="delegate", validate_parameters=True)
def delegate(preset: Preset = Preset.world, overrides: list[str] = []) -> Summary:  # noqa: B006 (the form needs a list)
    """Label, train, calibrate, and measure the cascade of model and helper.

    Args:
        preset: Experiment to start from.
        overrides: Changes to it, each `key=value`, for example `delegation.selection=helper_gain`.
    """
    with start_flow_run("delegate", preset, overrides) as run:
        delegate_model(run, prepare_data(run))
        return finished(run)
