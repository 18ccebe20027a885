"""Executes a flow of the catalogue, or plans it: this module puts together everything that a run needs."""

import json

from conf.compose import compose_project, digest
from conf.schema import ProjectConfig
from flows.adapters import prefect_ui
from flows.adapters.mlflow_runs import FlowTracker
from flows.catalogue import Flow
from flows.endings import RefusedError
from flows.launcher import LocalLauncher
from flows.plan import Planner
from flows.run import FlowRun
from flows.stage import StageExecutor
from flows.summary import Summary, finished


def execute(flow: Flow, preset: str, overrides: list[str]) -> Summary:
    """Run ``flow`` inside its Prefect run and say what came of it; its MLflow run is ended whatever happens.

    Raises ``RefusedError`` with the gate's reason if the gate said no.
    """
    config = compose_project(preset, overrides)
    tracker = _tracker(flow, preset, overrides, config)
    run = FlowRun(flow.name, preset, list(overrides), config, StageExecutor(LocalLauncher(), tracker))
    with tracker.closing():
        flow(run)
        summary = finished(run, tracker.where())
    if run.release and not run.release.promoted:
        raise RefusedError(run.release.reason, summary)
    return summary


def plan(flow: Flow, preset: str, overrides: list[str]) -> FlowRun:
    """Dry run: say for each stage whether it would run and why; nothing is run and nothing is written."""
    run = FlowRun(flow.name, preset, list(overrides), compose_project(preset, overrides), Planner(), dry=True)
    flow(run)
    return run


def _tracker(flow: Flow, preset: str, overrides: list[str], config: ProjectConfig) -> FlowTracker:
    tags = {
        "lacewing.preset": preset,
        "lacewing.overrides": json.dumps(overrides),
        "lacewing.config_digest": digest(config),
    }
    parameters = config.model_dump(mode="json")
    return FlowTracker(config.tracking, flow.name, prefect_ui.flow_run_id(), tags, parameters)
