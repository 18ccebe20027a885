"""Flow ``study``: every way of choosing the delegated tokens, on the same data, side by side in one table."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from components.core.artifact import Artifact
from components.evaluation.factuality.report import embedded_report
from conf.schema import ProjectConfig
from flows.adapters import prefect_ui
from flows.catalogue import flow
from flows.delegate import delegate_model
from flows.prepare import prepare_data
from flows.run import FlowRun, Stage

STUDY = Stage("study", "components.evaluation.factuality.study:stage")


def study_selections(run: FlowRun, data: Artifact) -> Artifact:
    """Train and measure every combination; results that exist already are not made again."""
    cascades: dict[str, Any] = {}  # artifacts; mypy would weigh them against ``sources`` as well
    for name, config in combinations(run.config):
        with run.varied(name, config):
            cascades[name] = delegate_model(run, data).cascade
    study = run.stage(STUDY, run.config.study_table, **cascades)
    if not run.dry:
        prefect_ui.page("study", embedded_report(study.folder), "Ways of choosing what to ask, side by side")
    return study


def combinations(config: ProjectConfig) -> Iterator[tuple[str, ProjectConfig]]:
    """The name and the configuration of every run; the seeds of one method are adjacent."""
    several = len(config.study.match) > 1
    for match, selection, seed in product(config.study.match, config.study.selections, config.study.seeds):
        delegation = config.delegation.model_copy(update={"selection": selection, "match": match})
        trainer = config.trainer.model_copy(update={"seed": seed})
        name = f"{selection}-{match}-{seed}" if several else f"{selection}-{seed}"
        yield name, config.model_copy(update={"delegation": delegation, "trainer": trainer})


@flow(
    "all ways of choosing what to ask, side by side over several seeds, in one table",
    example="study.selections=[lacy,ntp]",
    order=50,
)
def study(run: FlowRun) -> None:
    """Train every selection on the same data with several seeds, and write one table."""
    study_selections(run, prepare_data(run))
