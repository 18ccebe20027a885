"""Flow ``label``: which tokens of the prepared text state facts."""

from prefect import flow

from components.core.artifact import Artifact
from components.labelling.fingerprint import pipeline_fingerprint
from conf.compose import Preset
from flows.outcome import Summary, finished
from flows.prepare import prepare_data
from flows.stage import FlowRun, Stage, start_flow_run

LABEL = Stage("label", "components.labelling.stage:stage", "components.delegation.config:LabelConfig")


def label_facts(run: FlowRun, data: Artifact) -> Artifact:
    """One bit for each token of the shards."""
    return run.stage(
        LABEL,
        run.config.label,
        prepared=data,
        sources=pipeline_fingerprint(run.config.label, run.config.data.sources),
    )


@flow(name="label", validate_parameters=True)
def label(preset: Preset = Preset.world, overrides: list[str] = []) -> Summary:  # noqa: B006 (the form needs a list)
    """Prepare what is missing, then mark the tokens that state facts.

    Args:
        preset: Experiment to start from.
        overrides: Changes to it, each `key=value`, for example `label.pipeline=en_core_web_sm`.
    """
    with start_flow_run("label", preset, overrides) as run:
        label_facts(run, prepare_data(run))
        return finished(run)
