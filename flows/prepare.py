"""Flow ``prepare``: sources to documents, tokenizer and packed shards, versioned by DVC."""

from components.core.artifact import Artifact
from components.data.sources import fingerprint
from flows.adapters import dvc
from flows.catalogue import flow
from flows.run import FlowRun, Stage
from flows.start import given_model

PREPARE = Stage("prepare", "components.data.prepare:stage")


def prepare_data(run: FlowRun) -> Artifact:
    """Sources to shards; the bytes go to DVC, so that any version can be brought back.

    The tokenizer is learnt here, or that of the model that ``start_from`` names.
    """
    data = run.stage(PREPARE, run.config.data, base=given_model(run), sources=fingerprint(run.config.data))
    if not run.dry:
        dvc.ensure_versioned(data, run.config.versioning)
        run.rows.append(("data version", dvc.describe(data)))
    return data


@flow("sources to documents, tokenizer and packed shards", example="data.vocab_size=4096", order=10)
def prepare(run: FlowRun) -> None:
    """Sources to documents, tokenizer and packed shards."""
    prepare_data(run)
