"""The deployments that people see in the Prefect UI, and the worker that runs them: ``python -m flows.deployments``.

With ``--sole-worker`` it is the only one of its server, as under ``lacewing up``: runs that an earlier one has left
unfinished are closed first.

With ``--pool=NAME`` it registers the deployments with that work pool of Prefect, which it makes if there is none, and
ends: workers are then started elsewhere, on one machine or many, by ``prefect worker start --pool NAME``.

Each flow of the catalogue has one, or one for each preset or choice. All take the same two
fields: a preset and a list of overrides. Entry points are module paths, so a run started from the UI is the same code
as on the command line.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import suppress

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.types.entrypoint import EntrypointType

from conf.compose import CONF, DEFAULT_PRESET, Preset, choices
from flows.adapters.prefect_runs import close_abandoned
from flows.catalogue import Flow, Form, flows
from flows.entrypoints import prefect_flow

SOLE_WORKER, POOL = "--sole-worker", "--pool="
# One training run uses the whole machine; a second one waits.
CONCURRENT_RUNS = 1
# By it a later version of the project knows which deployments are its own.
TAG = "lacewing"


def deployments() -> list[RunnerDeployment]:
    """Every deployment of this project."""
    return [deployment for entry in flows().values() for deployment in _deployments_of(entry)]


def register(served: list[RunnerDeployment], pool: str) -> None:
    """Register the deployments with the work pool ``pool``, whose workers start each run as a process of their own."""
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    for deployment in served:
        deployment.apply(work_pool_name=pool)


def forget_former(current: list[RunnerDeployment]) -> None:
    """Delete what an earlier version of the project has registered under names that nobody serves any more."""
    names = {(deployment.flow_name, deployment.name) for deployment in current}
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    with get_client(sync_client=True) as client:
        for found in client.read_deployments(deployment_filter=ours):
            if (client.read_flow(found.flow_id).name, found.name) not in names:
                client.delete_deployment(found.id)


def _deployments_of(entry: Flow) -> Iterator[RunnerDeployment]:
    flow = prefect_flow(entry)
    for name, form in entry.deployments([preset.value for preset in Preset], DEFAULT_PRESET, choices).items():
        deployment = flow.to_deployment(
            name=name,
            description=_description(entry, form),
            parameters=form._asdict(),
            tags=[TAG],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        assert isinstance(deployment, RunnerDeployment)
        yield deployment


def _description(entry: Flow, form: Form) -> str:
    """What the flow does, which experiments there are, and what may be written into the form."""
    experiments = [form.preset] if entry.per_preset else [each.value for each in Preset]
    return "\n\n".join(
        [
            inspect.cleandoc(entry.description),
            *(f"`{chosen}`: {_about(*chosen.split('='))}" for chosen in form.overrides),
            "\n".join(f"- `{each}`: {_about('experiment', each)}" for each in experiments),
            f"Settings are changed by overrides, each `key=value`, for example `{entry.example}`. "
            f"`lacewing {entry.name} --help` lists every key.",
        ]
    )


def _about(group: str, choice: str) -> str:
    """The comment at the top of the choice's file, without the line that Hydra needs."""
    lines = (CONF / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("# @package")]
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))


if __name__ == "__main__":
    if SOLE_WORKER in sys.argv:
        close_abandoned(own_server=True, without_workers=True)
    served = deployments()
    forget_former(served)
    if pools := [argument.removeprefix(POOL) for argument in sys.argv if argument.startswith(POOL)]:
        register(served, pools[0])
    else:
        serve(*served, limit=CONCURRENT_RUNS, print_starting_message=False, pause_on_shutdown=False)
