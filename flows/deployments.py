"""The deployments that people see in the Prefect UI, and the worker that runs them: ``python -m flows.deployments``.

The pipeline has one deployment per preset; the other flows one each. All take the same two fields: a preset and a
list of overrides. Entry points are module paths, so a run started from the UI is the same code as on the command line.
"""

from typing import Any

from prefect import Flow, serve
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from conf.compose import DEFAULT_PRESET, Preset
from flows.assess import assess
from flows.compare import compare
from flows.delegate import delegate
from flows.label import label
from flows.pipeline import pipeline
from flows.prepare import prepare
from flows.pretrain import pretrain
from flows.release import release

# One training run fills a machine; a second one waits its turn.
CONCURRENT_RUNS = 1


def deployments() -> list[RunnerDeployment]:
    """Every deployment of this project."""
    single: list[Flow[..., Any]] = [prepare, pretrain, label, delegate, compare, assess, release]
    return [
        *(_deployment(pipeline, preset.value, preset.value) for preset in Preset),
        *(_deployment(flow, "any-preset", DEFAULT_PRESET) for flow in single),
    ]


def _deployment(flow: Flow[..., Any], name: str, preset: str) -> RunnerDeployment:
    deployment = flow.to_deployment(
        name=name,
        description=flow.description,
        parameters={"preset": preset, "overrides": []},
        tags=["lacewing"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment)
    return deployment


if __name__ == "__main__":
    serve(*deployments(), limit=CONCURRENT_RUNS, print_starting_message=False)
