"""The deployments that people see in the Prefect UI, and the worker that runs them: ``python -m flows.deployments``.

There is one for each flow and experiment, so that whoever looks for one finds it by either name. All take the same two
fields: a preset and a list of overrides. Entry points are module paths, so a run started from the UI is the same code
as on the command line.
"""

import inspect
from itertools import product

from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from conf.compose import CONF, Preset
from flows.catalogue import Flow, flows
from flows.entrypoints import prefect_flow

# One training run uses the whole machine; a second one waits.
CONCURRENT_RUNS = 1


def deployments() -> list[RunnerDeployment]:
    """Every deployment of this project."""
    return [_deployment(entry, preset) for entry, preset in product(flows().values(), Preset)]


def _deployment(entry: Flow, preset: Preset) -> RunnerDeployment:
    deployment = prefect_flow(entry).to_deployment(
        name=entry.deployment(preset.value),
        description=_description(entry, preset),
        parameters={"preset": preset.value, "overrides": []},
        tags=[preset.value],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment)
    return deployment


def _description(entry: Flow, preset: Preset) -> str:
    """What the flow does, what the experiment is, and what may be written into the form."""
    return (
        f"{inspect.cleandoc(entry.description)}\n\n"
        f"Experiment **{preset.value}**: {_about(preset)}\n\n"
        f"Settings are changed by overrides, each `key=value`, for example `{entry.example}`. "
        f"`lacewing {entry.name} --help` lists every key."
    )


def _about(preset: Preset) -> str:
    """The comment at the top of the experiment's file, below the line that Hydra needs."""
    lines = (CONF / "experiment" / f"{preset.value}.yaml").read_text(encoding="utf-8").splitlines()[1:]
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))


if __name__ == "__main__":
    serve(*deployments(), limit=CONCURRENT_RUNS, print_starting_message=False)
