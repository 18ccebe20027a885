"""Flow ``derive``: a model of a model, without training."""

from components.core.errors import InputError
from flows.catalogue import flow
from flows.run import FlowRun
from flows.start import given_model


@flow(
    "take in somebody's weights, with their tokenizer",
    example="start_from=SmolLM2-135M",
    order=15,
    own="derive",
)
def derive(run: FlowRun) -> None:
    """Make a model of this platform of the one that ``start_from`` names; nothing is trained.

    `lacewing pipeline start_from=...` goes on from it.
    """
    if given_model(run) is None:
        raise InputError("there is nothing to derive from: lacewing derive start_from=MODEL, for example a folder")
