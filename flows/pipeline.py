"""Flow ``pipeline``: raw text to a served, registered model, in one go."""

from prefect import flow

from conf.compose import Preset
from flows.assess import assess_model
from flows.outcome import Summary, finished
from flows.prepare import prepare_data
from flows.pretrain import pretrain_model
from flows.release import release_model
from flows.stage import FlowRun, opened


def whole_line(run: FlowRun) -> None:
    """The stages in order; each is skipped when its result is there already."""
    data = prepare_data(run)
    model = pretrain_model(run, data)
    scores = assess_model(run, model, data)
    release_model(run, model, data, scores)


@flow(name="pipeline", validate_parameters=True)
def pipeline(preset: Preset = Preset.world, overrides: list[str] = []) -> Summary:  # noqa: B006 (the form needs a list)
    """Prepare, pretrain, assess and release: raw text to a served, registered model.

    Args:
        preset: Experiment to start from.
        overrides: Changes to it, each `key=value`, for example `model=10m`.
    """
    with opened("pipeline", preset, overrides) as run:
        whole_line(run)
        return finished(run)
