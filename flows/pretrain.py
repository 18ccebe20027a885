"""Flow ``pretrain``: a decoder trained from scratch on the prepared shards."""

from components.core.artifact import Artifact
from flows.catalogue import flow
from flows.prepare import prepare_data
from flows.run import FlowRun, Stage

PRETRAIN = Stage("pretrain", "components.pretrain:stage")


def pretrain_model(run: FlowRun, data: Artifact) -> Artifact:
    """Shards to a trained model; an interrupted run continues from its checkpoint."""
    return run.stage(PRETRAIN, run.config.pretrain, prepared=data)


@flow("train a decoder from scratch on the shards", example="trainer.max_steps=500", order=20)
def pretrain(run: FlowRun) -> None:
    """Prepare what is missing, then train."""
    pretrain_model(run, prepare_data(run))
