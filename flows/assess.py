"""Flow ``assess``: how good the trained model is on text that it has not seen, as a one-page report."""

from components.core.artifact import Artifact
from components.evaluation.report import embedded_image
from flows.adapters import prefect_ui
from flows.catalogue import flow
from flows.delegate import Delegated, delegate_model
from flows.prepare import prepare_data
from flows.run import FlowRun, Stage

ASSESS = Stage("assess", "components.evaluation.assess:stage")


def assess_model(run: FlowRun, delegated: Delegated, data: Artifact) -> Artifact:
    """Score the model; its report is shown in Prefect here, and in MLflow as files of the stage's run."""
    scores = run.stage(
        ASSESS, run.config.assess, model=delegated.model, prepared=data, pretrained=delegated.started_from
    )
    if not run.dry:
        prefect_ui.page("report", embedded_image(scores.folder), "How good the model is")
    return scores


@flow("measure the model on held-out text, on one page", example="assess.max_documents=200", order=60)
def assess(run: FlowRun) -> None:
    """Prepare, train and delegate what is missing, then measure the model alone, calls forbidden."""
    data = prepare_data(run)
    assess_model(run, delegate_model(run, data), data)
