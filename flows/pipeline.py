"""Flow ``pipeline``: raw text to a served, registered model, in one go."""

from prefect import flow

from conf.compose import Preset
from flows.outcome import Summary, finished
from flows.release import whole_line
from flows.stage import start_flow_run


@flow(name="pipeline", validate_parameters=True)
def pipeline(preset: Preset = Preset.world, overrides: list[str] = []) -> Summary:  # noqa: B006 (the form needs a list)
    """Prepare, label, pretrain, delegate, calibrate, assess and release: raw text to a served, registered model.

    Args:
        preset: Experiment to start from.
        overrides: Changes to it, each `key=value`, for example `model=10m`.
    """
    with start_flow_run("pipeline", preset, overrides) as run:
        whole_line(run)
        return finished(run)
