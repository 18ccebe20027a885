"""Flow ``sweep``: settings tried side by side, the worse trials stopped early, and the best one over several seeds."""

import json
from collections.abc import Mapping
from typing import Any

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.identity import digest_json
from components.evaluation.sweep.artifact import Sweep
from components.evaluation.sweep.config import SweepReportConfig, Value
from components.training.trained import TrainedModel
from flows.adapters import prefect_ui
from flows.adapters.optuna_study import OpenTrial, OptunaStudy
from flows.catalogue import find_flow, flow
from flows.endings import NotWorthwhileError
from flows.evaluation import show_report
from flows.run import FlowRun, Stage
from flows.start import settled
from flows.workspace import workspace_folder

SWEEP = Stage("sweep", "components.evaluation.sweep.stage:stage")


def sweep_settings(run: FlowRun) -> Artifact | None:
    """Try the settings of ``sweep.space``, and write the report; a dry run only says what a trial would run."""
    config = run.config.sweep
    if not config.space:
        raise InputError(
            "sweep.space is empty: say what to try, for example "
            "space='[{key:trainer.learning_rate,low:3e-3,high:3e-2,log:true}]'"
        )
    if run.dry:
        find_flow(config.flow)(run)
        return None
    study = OptunaStudy(workspace_folder() / "sweeps" / study_name(run), config)
    for trial in study.waiting():
        try_settings(run, trial)
    report = SweepReportConfig(
        metric=config.metric, better=config.better, confidence=config.confidence, trials=study.trials(), seeds={}
    )
    if any(trial.state == "complete" for trial in report.trials):
        report = report.model_copy(update={"seeds": over_seeds(run, report.best.settings)})
    made = run.stage(SWEEP, report)
    show_report(run, made, Sweep.PAGE, "sweep-report", "Settings side by side")
    return made


def study_name(run: FlowRun) -> str:
    """What decides the trials: another space or another setting begins another study, more trials go on with it."""
    later = {"trials", "seeds", "seed_key", "confidence"}
    config = run.config.model_dump(mode="json", exclude={"sweep": later})
    return digest_json(config)[:16]


def try_settings(run: FlowRun, trial: OpenTrial) -> None:
    """Run one trial to its end, or until it is not worth going on with; a failure is told and recorded."""
    config = run.config.sweep
    name = f"trial-{trial.number}"
    prefect_ui.tell(f"{name}: {', '.join(_overrides(trial.settings))}")

    def watch(stage: str, event: Mapping[str, Any]) -> None:
        value = event.get("metrics", {}).get(config.metric)
        if stage != config.stage or value is None or event.get("step") is None:
            return
        trial.report(value, event["step"])
        if trial.is_hopeless:
            raise NotWorthwhileError(
                f"{name}: {config.metric} {value:.4f} at step {event['step']} is worse than others"
            )

    try:
        with run.watched(watch):
            trial.complete(measured(run, name, _overrides(trial.settings), trial))
    except NotWorthwhileError as reason:
        trial.stop()
        prefect_ui.tell(f"{reason}: stopped")
    except InputError as error:  # such as a learning rate at which training diverges
        trial.fail(str(error))
        prefect_ui.tell(f"{name} failed: {error}")


def measured(run: FlowRun, name: str, overrides: list[str], trial: OpenTrial | None = None) -> float:
    """Run the flow with these overrides; the metric of the stage that decides."""
    sweep = run.config.sweep
    with run.varied(name, settled(run.preset, [*run.overrides, *overrides])):
        find_flow(sweep.flow)(run)
    outcome = run.outcomes.get(f"{sweep.stage} {name}")
    if outcome is None:
        stages = [title.removesuffix(f" {name}") for title in run.outcomes if title.endswith(f" {name}")]
        raise InputError(f"sweep.stage={sweep.stage} is no stage of the flow {sweep.flow}: it has {', '.join(stages)}")
    artifact = outcome.artifact
    if trial is not None and artifact.stage in TrainedModel.stages:
        for row in TrainedModel.open(artifact.folder).history():  # of a training that was made before
            if sweep.metric in row:
                trial.report(row[sweep.metric], row["step"])
    if sweep.metric not in artifact.metrics:
        raise InputError(
            f"sweep.metric={sweep.metric} is no metric of {sweep.stage}: it has {', '.join(sorted(artifact.metrics))}"
        )
    return artifact.metrics[sweep.metric]


def over_seeds(run: FlowRun, settings: Mapping[str, Value]) -> dict[int, float]:
    """The metric of these settings by seed."""
    config = run.config.sweep
    return {
        seed: measured(run, f"seed-{seed}", [*_overrides(settings), f"{config.seed_key}={seed}"])
        for seed in config.seeds
    }


def _overrides(settings: Mapping[str, Value]) -> list[str]:
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


@flow(
    "settings tried side by side, the worse trials stopped early",
    example="sweep.space=[{key:trainer.learning_rate,low:3e-3,high:3e-2,log:true}]",
    order=55,
    own="sweep",
)
def sweep(run: FlowRun) -> None:
    """Try settings of one flow, stop the worse trials, repeat the best setting over seeds, and write a report."""
    sweep_settings(run)
