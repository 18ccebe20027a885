"""Executes a flow of the catalogue, or plans it: this module puts together everything that a run needs."""

import json
import textwrap
from collections.abc import Sequence

from conf.compose import compose_project, digest
from conf.schema import ProjectConfig
from flows.adapters import prefect_ui
from flows.adapters.mlflow_conclusion import Conclusion
from flows.adapters.mlflow_runs import FlowTracker
from flows.catalogue import Flow
from flows.endings import RefusedError
from flows.headlines import headline_metrics
from flows.launcher import LocalLauncher
from flows.plan import Planner
from flows.room import full_disk_named, require_room
from flows.run import FlowRun
from flows.stage import StageExecutor
from flows.start import settled, started
from flows.summary import Summary, closing_page, finished
from flows.workspace import workspace_folder

BUNDLE = "bundle"  # the stage whose artifact a release registers
# Of the overrides in the title of a run; all of them are in its tags.
MAX_CHANGES_CHARACTERS = 120


def execute(flow: Flow, preset: str, overrides: list[str]) -> Summary:
    """Run ``flow`` inside its Prefect run and say what came of it; its MLflow run is ended whatever happens.

    Raises ``RefusedError`` with the gate's reason if the gate said no.
    """
    overrides = flow.qualified(overrides)
    config = settled(preset, overrides)
    require_room(workspace_folder())
    tracker = _tracker(flow, preset, overrides, config)
    run = FlowRun(flow.name, preset, list(overrides), config, StageExecutor(LocalLauncher(), tracker))
    with full_disk_named(workspace_folder()), tracker.closing():
        flow(run)
        tracker.conclude(_conclusion(run, tracker.where()))
        summary = finished(run, tracker.where())
    if run.release and not run.release.promoted:
        raise RefusedError(run.release.reason, summary)
    return summary


def plan(flow: Flow, preset: str, overrides: list[str]) -> FlowRun:
    """Dry run: say for each stage whether it would run and why; nothing is run and nothing is written."""
    overrides = flow.qualified(overrides)
    config = started(compose_project(preset, overrides), overrides)
    run = FlowRun(flow.name, preset, overrides, config, Planner(), dry=True)
    flow(run)
    return run


def _tracker(flow: Flow, preset: str, overrides: list[str], config: ProjectConfig) -> FlowTracker:
    tags = {
        "lacewing.preset": preset,
        "lacewing.overrides": json.dumps(overrides),
        "lacewing.config_digest": digest(config),
    }
    parameters = config.model_dump(mode="json")
    title = run_title(preset, overrides, config)
    return FlowTracker(config.tracking, flow.name, prefect_ui.flow_run_id(), tags, parameters, title)


def run_title(preset: str, overrides: Sequence[str], config: ProjectConfig) -> str:
    """What a run is called where runs are compared: its preset, what was changed, and the digest of all settings."""
    changes = textwrap.shorten(" ".join(overrides), MAX_CHANGES_CHARACTERS, placeholder=" ...")
    return " ".join(word for word in (preset, changes, digest(config)[:8]) if word)


def _conclusion(run: FlowRun, where: str) -> Conclusion:
    """What MLflow shows of the whole flow."""
    metrics, page = headline_metrics(run.artifacts), closing_page(run, where)
    if (release := run.release) is None:
        return Conclusion(metrics, run.artifacts, page)
    tags = {
        "lacewing.model_version": f"{release.model}/{release.version}",
        "lacewing.alias": release.alias,
        "lacewing.gate": release.reason,
    }
    return Conclusion(metrics, run.artifacts, page, tags, run.outcomes[BUNDLE].artifact.key)
