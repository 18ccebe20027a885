"""Flow ``delegate``: a model that knows when to ask, the threshold for asking, and the value of asking."""

from dataclasses import dataclass

from components.cascade.config import HelperConfig
from components.core.artifact import Artifact
from components.core.inputs import files_fingerprint, models_fingerprint
from components.data.config import DataConfig
from components.data.sources import fingerprint
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.evaluation.factuality.report import embedded_report
from flows.adapters import prefect_ui
from flows.adapters.mlflow_web import file_link
from flows.catalogue import flow
from flows.label import label_facts
from flows.prepare import prepare_data
from flows.pretrain import pretrain_model
from flows.run import FlowRun, Stage

DELEGATE = Stage("delegate", "components.delegation.train:stage")
CALIBRATE = Stage("calibrate", "components.delegation.calibrate:stage")
CASCADE = Stage("cascade", "components.evaluation.factuality.stage:stage")


@dataclass(frozen=True)
class Delegated:
    """A model that knows when to ask, with the labels it learnt from, its calibration and its assessment."""

    labels: Artifact
    model: Artifact
    started_from: Artifact | None
    """The pretrained model whose training it continues; ``None`` if it was trained from scratch."""
    calibration: Artifact
    cascade: Artifact


def delegate_model(run: FlowRun, data: Artifact) -> Delegated:
    """Labels, training, calibration, and the cascade over all call budgets."""
    labels = label_facts(run, data)
    # The plain model, which keeps all facts, is always made for comparison.
    plain = pretrain_model(run, data)
    start = _start(run, plain)
    model = taught_model(run, data, labels, plain)
    calibration = run.stage(CALIBRATE, run.config.calibrate, delegated=model, prepared=data, labels=labels)
    cascade = run.stage(
        CASCADE,
        run.config.cascade_assess,
        delegated=model,
        calibration=calibration,
        prepared=data,
        labels=labels,
        pretrained=plain,
        sources=_read_by_cascade(run),
    )
    if not run.dry:
        texts = CascadeAssessment.TEXTS
        link = file_link(run.config.tracking, cascade.folder, texts)
        title, _, report = embedded_report(cascade.folder).replace(f"[{texts}]({texts})", link).partition("\n\n")
        page = f"{title}\n\nWho wrote what, in all texts: {link}\n\n{report}"
        prefect_ui.page("cascade-report", page, "What asking is worth")
    return Delegated(labels, model, start, calibration, cascade)


def taught_model(run: FlowRun, data: Artifact, labels: Artifact, plain: Artifact) -> Artifact:
    """The model that knows when to ask; its training goes on from ``plain`` unless it starts from scratch."""
    settings = run.config.delegate
    start = _start(run, plain)
    asked = models_fingerprint(
        {"delegation.reference": settings.delegation.reference, "cascade.helper.model": settings.helper.model}
    )
    return run.stage(DELEGATE, settings, prepared=data, labels=labels, pretrained=start, sources=asked)


def _start(run: FlowRun, plain: Artifact) -> Artifact | None:
    return plain if run.config.delegate.delegation.start == "checkpoint" else None


def _read_by_cascade(run: FlowRun) -> dict[str, str]:
    facts = run.config.facts
    judged = facts.factscore
    return {
        **read_by_helper(run.config.cascade.helper),
        **files_fingerprint(
            [*facts.probes.files, facts.calculations.file, judged.entities, *judged.knowledge, judged.pipeline]
        ),
    }


def read_by_helper(helper: HelperConfig) -> dict[str, str]:
    """Digests of what the helper reads from outside the workspace."""
    library = fingerprint(DataConfig(sources=helper.library)) if helper.library else {}
    return {**models_fingerprint({"cascade.helper.model": helper.model}), **library}


@flow(
    "teach the model when to ask, and measure what asking is worth",
    example="delegation.selection=helper_gain",
    order=40,
)
def delegate(run: FlowRun) -> None:
    """Label, train, calibrate, and measure the cascade of model and helper."""
    delegate_model(run, prepare_data(run))
