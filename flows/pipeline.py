"""Flow ``pipeline``: raw text to a served, registered model, in one go."""

from flows.assess import assess_model
from flows.catalogue import flow
from flows.delegate import delegate_model
from flows.prepare import prepare_data
from flows.release import release_model
from flows.run import FlowRun


@flow(
    "raw text to a served, registered model: all of the below but study",
    example="model=10m",
    order=0,
    per_preset=True,
)
def pipeline(run: FlowRun) -> None:
    """Prepare, label, pretrain, delegate, calibrate, assess and release: raw text to a served, registered model."""
    data = prepare_data(run)
    delegated = delegate_model(run, data)
    scores = assess_model(run, delegated, data)
    release_model(run, data, delegated, scores)
