"""Flow ``pretrain``: a decoder trained from scratch on the prepared shards."""

from prefect import flow

from components.core.artifact import Artifact
from conf.compose import Preset
from flows.outcome import Summary, finished
from flows.prepare import prepare_data
from flows.stage import FlowRun, Stage, start_flow_run

PRETRAIN = Stage("pretrain", "components.pretrain:stage", "components.training.config:PretrainConfig")


def pretrain_model(run: FlowRun, data: Artifact) -> Artifact:
    """Shards to a trained model; an interrupted run goes on from its checkpoint."""
    return run.stage(PRETRAIN, run.config.pretrain, prepared=data)


@flow(name="pretrain", validate_parameters=True)
def pretrain(preset: Preset = Preset.world, overrides: list[str] = []) -> Summary:  # noqa: B006 (the form needs a list)
    """Prepare what is missing, then train.

    Args:
        preset: Experiment to start from.
        overrides: Changes to it, each `key=value`, for example `trainer.max_steps=500`.
    """
    with start_flow_run("pretrain", preset, overrides) as run:
        pretrain_model(run, prepare_data(run))
        return finished(run)
