"""Flow ``prepare``: sources to documents, tokenizer and packed shards, versioned by DVC."""

from prefect import flow

from components.core.artifact import Artifact
from components.data.sources import fingerprint
from conf.compose import Preset
from flows import versioning
from flows.outcome import Summary, finished
from flows.stage import FlowRun, Stage, start_flow_run

PREPARE = Stage("prepare", "components.data.prepare:stage", "components.data.config:DataConfig")


def prepare_data(run: FlowRun) -> Artifact:
    """Sources to shards; the bytes go to DVC, so that any version can be brought back."""
    data = run.stage(PREPARE, run.config.data, sources=fingerprint(run.config.data))
    if not run.dry:
        versioning.ensure_versioned(data, run.config.versioning)
    return data


@flow(name="prepare", validate_parameters=True)
def prepare(preset: Preset = Preset.world, overrides: list[str] = []) -> Summary:  # noqa: B006 (the form needs a list)
    """Sources to documents, tokenizer and packed shards.

    Args:
        preset: Experiment to start from.
        overrides: Changes to it, each `key=value`, for example `data.vocab_size=4096`.
    """
    with start_flow_run("prepare", preset, overrides) as run:
        prepare_data(run)
        return finished(run)
