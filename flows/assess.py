"""Flow ``assess``: how good the trained model is on text it has not seen, on one page."""

from prefect import flow

from components.core.artifact import Artifact
from components.evaluation.report import embedded_image
from conf.compose import Preset
from flows import prefect_ui
from flows.delegate import delegate_model
from flows.outcome import Summary, finished
from flows.prepare import prepare_data
from flows.stage import FlowRun, Stage, start_flow_run

ASSESS = Stage("assess", "components.evaluation.assess:stage", "components.evaluation.config:AssessConfig")


def assess_model(run: FlowRun, model: Artifact, data: Artifact) -> Artifact:
    """Score the model; its report is shown in Prefect here, and in MLflow as files of the stage's run."""
    scores = run.stage(ASSESS, run.config.assess, model=model, prepared=data)
    if not run.dry:
        prefect_ui.page("report", embedded_image(scores.folder), "How good the model is")
    return scores


@flow(name="assess", validate_parameters=True)
def assess(preset: Preset = Preset.world, overrides: list[str] = []) -> Summary:  # noqa: B006 (the form needs a list)
    """Prepare, train and delegate what is missing, then measure the model alone, calls forbidden.

    Args:
        preset: Experiment to start from.
        overrides: Changes to it, each `key=value`, for example `assess.max_documents=200`.
    """
    with start_flow_run("assess", preset, overrides) as run:
        data = prepare_data(run)
        assess_model(run, delegate_model(run, data).model, data)
        return finished(run)
