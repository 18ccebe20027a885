"""Flow ``release``: gate, registration, smoke test of the real server, promotion."""

from dataclasses import dataclass

from components.core.artifact import Artifact
from flows import console
from flows.adapters import prefect_ui
from flows.assess import assess_model
from flows.catalogue import flow
from flows.delegate import Delegated, delegate_model, read_by_helper
from flows.prepare import prepare_data
from flows.promotion import CHALLENGER, CHAMPION, Registry
from flows.run import FlowRun, Release, Stage

BUNDLE = Stage("bundle", "components.deployment.bundle:stage")
GATE = Stage("gate", "components.evaluation.gate.stage:stage")
SMOKE = Stage("smoke", "components.deployment.smoke:stage")


@dataclass(frozen=True)
class Verdict:
    """Whether a bundle may become champion, and why."""

    promote: bool
    reason: str


def release_model(run: FlowRun, data: Artifact, delegated: Delegated, scores: Artifact) -> None:
    """Register the model as challenger; if it is no worse than the champion and its server works, promote it."""
    bundle = run.stage(
        BUNDLE,
        run.config.bundle,
        delegated=delegated.model,
        prepared=data,
        assessment=scores,
        calibration=delegated.calibration,
        cascade=delegated.cascade,
        sources=read_by_helper(run.config.bundle.cascade.helper),
    )
    if run.dry:
        console.say("release    would compare it with the champion of that moment")
        return
    registry = Registry(run.config.tracking)
    verdict = _verdict(run, registry, bundle, data, delegated.labels)
    version = registry.register(bundle)
    if verdict.promote:
        run.stage(SMOKE, run.config.release.smoke, bundle=bundle, assessment=scores)
        again = run.config.release.allow_rolled_back
        version = registry.promote(version.number, verdict.reason, allow_rolled_back=again)
    else:
        prefect_ui.tell(f"release    refused: {verdict.reason}")
    alias = CHAMPION if verdict.promote else CHALLENGER
    run.release = Release(registry.name, version.number, alias, verdict.promote, verdict.reason)


def _verdict(run: FlowRun, registry: Registry, bundle: Artifact, data: Artifact, labels: Artifact) -> Verdict:
    champion = registry.champion()
    if champion and champion.key == bundle.key:
        return Verdict(True, "it is the champion already")
    left = registry.rolled_back(bundle.key)
    if left and not run.config.release.allow_rolled_back:
        return Verdict(False, f"{left} was rolled back before; release.allow_rolled_back=true promotes it again")
    decision = run.stage(
        GATE, run.config.release.gate, bundle=bundle, prepared=data, labels=labels, champion=champion
    ).details
    return Verdict(bool(decision["promote"]), str(decision["reason"]))


@flow(
    "gate the trained model, register it, test its server, promote it; trains nothing",
    example="release.gate.criteria.facts_right.margin=0.01",
    order=70,
)
def release(run: FlowRun) -> None:
    """Gate, register, try and promote the model that has been trained and assessed; this flow trains nothing."""
    with run.only_using("assess"):
        data = prepare_data(run)
        delegated = delegate_model(run, data)
        scores = assess_model(run, delegated.model, data)
    release_model(run, data, delegated, scores)
