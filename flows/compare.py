"""Flow ``compare``: evaluated models side by side; what has not been evaluated yet is evaluated first."""

from collections.abc import Sequence
from pathlib import Path

from components.core.artifact import RECORD, Artifact
from components.core.errors import InputError
from components.core.record_digest import intact
from components.evaluation.comparison.artifact import Comparison
from flows.adapters import prefect_ui
from flows.adapters.mlflow_web import file_link
from flows.catalogue import flow
from flows.run import FlowRun, Stage

COMPARE = Stage("compare", "components.evaluation.comparison.stage:stage")
EVALUATIONS = ("evaluate", "arena")
"""Stages whose artifacts hold a table of scores."""


@flow(
    "models side by side on the same examples: compare champion challenger",
    example="compare.models=[champion,challenger]",
    order=55,
    words="compare.models",
)
def compare(run: FlowRun) -> None:
    """Compare models of the registry, folders or endpoints, or finished evaluations, with the first one given.

    The report says which differences are more than chance, how small a one could have been seen, which examples were
    won and lost, and what each evaluation cost.
    """
    models = several_models(run.config.compare.models)
    evaluations = {f"model_{place:02}": evaluated(run, model) for place, model in enumerate(models)}
    comparison = run.stage(COMPARE, run.config.comparison, **evaluations)
    if not run.dry:
        link = file_link(run.config.tracking, comparison.folder, Comparison.PAGE)
        page = comparison.report.read_text(encoding="utf-8")
        prefect_ui.page("comparison", f"The page to send: {link}\n\n{page}", "Models side by side")


def several_models(models: Sequence[str]) -> Sequence[str]:
    """``models`` if they can be compared; raises ``InputError`` for fewer than two or the same twice."""
    if len(models) < 2:
        given = f"only {models[0]!r}" if models else "none"
        raise InputError(
            f"a comparison needs two models or more, given: {given}. Write lacewing compare MODEL MODEL ..."
        )
    if twice := [model for place, model in enumerate(models) if model in models[:place]]:
        raise InputError(f"{twice[0]!r} is given twice; a model is compared with others")
    return models


def evaluated(run: FlowRun, reference: str) -> Artifact:
    """The evaluation that ``reference`` names, or one that is made now of the model that it names."""
    if finished := _finished_evaluation(reference):
        return finished
    raise InputError(f"{reference!r} is no folder of a finished evaluation")


def _finished_evaluation(reference: str) -> Artifact | None:
    folder = Path(reference).absolute()
    if not (folder / RECORD).is_file():
        return None
    artifact = Artifact.open(folder)
    return intact(artifact) if artifact.stage in EVALUATIONS else None
