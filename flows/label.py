"""Flow ``label``: which tokens of the prepared text state facts."""

from components.core.artifact import Artifact
from components.labelling.fingerprint import pipeline_fingerprint
from flows.catalogue import flow
from flows.prepare import prepare_data
from flows.run import FlowRun, Stage

LABEL = Stage("label", "components.labelling.stage:stage")


def label_facts(run: FlowRun, data: Artifact) -> Artifact:
    """One bit for each token of the shards."""
    return run.stage(
        LABEL,
        run.config.label,
        prepared=data,
        sources=pipeline_fingerprint(run.config.label, run.config.data.sources),
    )


@flow("label the tokens that state facts", example="label.pipeline=en_core_web_sm", order=30)
def label(run: FlowRun) -> None:
    """Prepare what is missing, then label the tokens that state facts."""
    label_facts(run, prepare_data(run))
