"""The deployments that people see in the Prefect UI, and the worker that runs them: ``python -m flows.deployments``.

With ``--sole-worker`` it is the only one of its server, as under ``lacewing up``: runs that an earlier one has left
unfinished are closed first.

Each flow of the catalogue has one, or one for each preset. All take the same two fields: a preset and a list of
overrides. Entry points are module paths, so a run started from the UI is the same code as on the command line.
"""

import sys
from collections.abc import Iterator

from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from conf.compose import DEFAULT_PRESET, Preset
from flows.adapters.prefect_runs import close_abandoned
from flows.catalogue import Flow, flows
from flows.entrypoints import prefect_flow

SOLE_WORKER = "--sole-worker"
# One training run uses the whole machine; a second one waits.
CONCURRENT_RUNS = 1


def deployments() -> list[RunnerDeployment]:
    """Every deployment of this project."""
    return [deployment for entry in flows().values() for deployment in _deployments_of(entry)]


def _deployments_of(entry: Flow) -> Iterator[RunnerDeployment]:
    flow = prefect_flow(entry)
    for name, preset in entry.deployments([preset.value for preset in Preset], DEFAULT_PRESET).items():
        deployment = flow.to_deployment(
            name=name,
            description=flow.description,
            parameters={"preset": preset, "overrides": []},
            tags=["lacewing"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        assert isinstance(deployment, RunnerDeployment)
        yield deployment


if __name__ == "__main__":
    if SOLE_WORKER in sys.argv:
        close_abandoned(own_server=True, without_workers=True)
    serve(*deployments(), limit=CONCURRENT_RUNS, print_starting_message=False, pause_on_shutdown=False)
