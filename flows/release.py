"""Flow ``release``: gate, registration, smoke test of the real server, promotion."""

from dataclasses import asdict, dataclass
from typing import Any

from prefect import flow

from components.core.artifact import Artifact
from conf.compose import Preset
from flows import console, prefect_ui
from flows.assess import assess_model
from flows.delegate import Delegated, delegate_model
from flows.outcome import Summary, finished
from flows.prepare import prepare_data
from flows.registry import Registry
from flows.stage import FlowRun, Stage, start_flow_run

BUNDLE = Stage("bundle", "components.deployment.bundle:stage", "components.deployment.config:BundleStageConfig")
GATE = Stage("gate", "components.evaluation.gate:stage", "components.evaluation.config:GateConfig")
SMOKE = Stage("smoke", "components.deployment.smoke:stage", "components.deployment.config:SmokeConfig")


@dataclass(frozen=True)
class Release:
    """What became of a model at the gate."""

    model: str
    version: int
    alias: str
    promoted: bool
    reason: str
    prompt: str = ""
    answer: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def release_model(run: FlowRun, model: Delegated, data: Artifact, scores: Artifact) -> None:
    """Register the model as challenger; if it is no worse than the champion and really answers, make it champion."""
    config = run.config.release
    bundle = run.stage(
        BUNDLE,
        run.config.bundle,
        delegated=model.model,
        prepared=data,
        assessment=scores,
        calibration=model.calibration,
        cascade=model.cascade,
    )
    if run.dry:
        console.say("release    would compare it with the champion of that moment")
        return
    registry = Registry(run.config.tracking)
    verdict = _verdict(run, registry, bundle, data)
    version = registry.register(bundle)
    if not verdict.promote:
        run.release = Release(registry.model, version.number, "challenger", False, verdict.reason)
        prefect_ui.tell(f"release    refused: {verdict.reason}")
        return
    answer = run.stage(SMOKE, config.smoke, bundle=bundle, assessment=scores).details
    version = registry.promote(version.number, verdict.reason, allow_rolled_back=config.allow_rolled_back)
    run.release = Release(
        registry.model, version.number, "champion", True, verdict.reason, str(answer["prompt"]), str(answer["answer"])
    )


@dataclass(frozen=True)
class Verdict:
    """Whether a bundle may become champion, and why."""

    promote: bool
    reason: str


def _verdict(run: FlowRun, registry: Registry, bundle: Artifact, data: Artifact) -> Verdict:
    champion = registry.champion()
    if champion and champion.key == bundle.key:
        return Verdict(True, "it is the champion already")
    left = registry.rolled_back(bundle.key)
    if left and not run.config.release.allow_rolled_back:
        return Verdict(False, f"{left} was rolled back before; release.allow_rolled_back=true promotes it again")
    decision = run.stage(GATE, run.config.release.gate, bundle=bundle, prepared=data, champion=champion).details
    return Verdict(bool(decision["promote"]), str(decision["reason"]))


def whole_line(run: FlowRun) -> None:
    """The stages in order; each is skipped when its result is there already."""
    data = prepare_data(run)
    model = delegate_model(run, data)
    scores = assess_model(run, model.model, data)
    release_model(run, model, data, scores)


@flow(name="release", validate_parameters=True)
def release(preset: Preset = Preset.world, overrides: list[str] = []) -> Summary:  # noqa: B006 (the form needs a list)
    """Prepare, train and measure what is missing, then gate, register, try and promote the model.

    Args:
        preset: Experiment to start from.
        overrides: Changes to it, each `key=value`, for example `release.gate.margin_bits_per_byte=0.01`.
    """
    with start_flow_run("release", preset, overrides) as run:
        whole_line(run)
        return finished(run)
