"""Flow ``pretrain``: a decoder trained from scratch on the prepared shards."""

from components.core.artifact import Artifact
from flows.catalogue import flow
from flows.prepare import prepare_data
from flows.run import FlowRun, Stage
from flows.start import given_model

PRETRAIN = Stage("pretrain", "components.pretrain:stage")


def pretrain_model(run: FlowRun, data: Artifact) -> Artifact:
    """Shards to a trained model, or the model that ``start_from`` names; an interrupted run is resumed."""
    return given_model(run) or run.stage(PRETRAIN, run.config.pretrain, prepared=data)


@flow("train a decoder from scratch on the shards", example="trainer.max_steps=500", order=20)
def pretrain(run: FlowRun) -> None:
    """Prepare what is missing, then train."""
    pretrain_model(run, prepare_data(run))
