"""Flow ``compare``: evaluated models side by side; what has not been evaluated yet is evaluated first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.core.artifact import RECORD, Artifact
from components.core.errors import InputError
from components.core.record_digest import intact
from components.evaluation.arena.artifact import Arena
from components.evaluation.artifacts import Evaluation
from components.evaluation.comparison.artifact import Comparison
from flows.catalogue import flow
from flows.evaluation import evaluate_model, show_report
from flows.run import FlowRun, Stage

COMPARE = Stage("compare", "components.evaluation.comparison.stage:stage")
EVALUATIONS = (*Evaluation.stages, *Arena.stages)
"""Stages whose artifacts hold a table of scores."""


@flow(
    "models side by side on the same examples: compare champion challenger",
    example="compare.models=[champion,challenger]",
    order=66,
    own="evaluate",
    words="compare.models",
)
def compare(run: FlowRun) -> None:
    """Compare models of the registry, folders or endpoints, or finished evaluations, with the first one given.

    The report says which differences are more than chance, how small a one could have been seen, which examples were
    won and lost, and what each evaluation cost.
    """
    models = several_models(run.config.compare.models)
    evaluations: dict[str, Any] = {f"model_{place:02}": evaluated(run, model) for place, model in enumerate(models)}
    comparison = run.stage(COMPARE, run.config.comparison, **evaluations)
    show_report(run, comparison, Comparison.PAGE, "comparison", "Models side by side")


def several_models(models: Sequence[str]) -> Sequence[str]:
    """``models`` if they can be compared; raises ``InputError`` for fewer than two or the same twice."""
    if len(models) < 2:
        given = f"only {models[0]!r}" if models else "none"
        raise InputError(f"this needs two models or more, given: {given}. Write lacewing compare MODEL MODEL ...")
    if twice := [model for place, model in enumerate(models) if model in models[:place]]:
        raise InputError(f"{twice[0]!r} is given twice; name different models")
    return models


def evaluated(run: FlowRun, reference: str) -> Artifact:
    """The finished evaluation in the folder ``reference``, or that of the model it names, made now if there is none."""
    if finished := _finished_evaluation(reference):
        return finished
    with run.varied(reference, run.config):
        return evaluate_model(run, reference)


def _finished_evaluation(reference: str) -> Artifact | None:
    folder = Path(reference).absolute()
    if not (folder / RECORD).is_file():
        return None
    artifact = Artifact.open(folder)
    return intact(artifact) if artifact.stage in EVALUATIONS else None
