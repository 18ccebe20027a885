"""Flow ``release``: gate, registration, smoke test of the real server, promotion."""

import json
from dataclasses import dataclass
from typing import Literal

from components.core.artifact import Artifact
from flows import console
from flows.adapters import prefect_ui
from flows.adapters.mlflow_registry import Version
from flows.adapters.model_card import CONFIG_DIGEST, REASON, VERDICT
from flows.assess import assess_model
from flows.catalogue import flow
from flows.delegate import Delegated, delegate_model, read_by_helper
from flows.prepare import prepare_data
from flows.promotion import CHALLENGER, CHAMPION, ChampionMovedError, Registry
from flows.run import FlowRun, Release, Stage

BUNDLE = Stage("bundle", "components.deployment.bundle:stage")
GATE = Stage("gate", "components.evaluation.gate.stage:stage")
SMOKE = Stage("smoke", "components.deployment.smoke:stage")

# Somebody else has promoted or rolled back while this model was being judged: so often it is judged again.
JUDGEMENTS = 5


@dataclass(frozen=True)
class Verdict:
    """Whether a bundle may become champion, and why."""

    outcome: Literal["promote", "hold", "refuse"]
    reason: str
    champion: str = ""
    """Key of the champion that it was compared with; empty if there was none."""
    repeated: bool = False
    """Whether an earlier verdict still holds, and the version says it already."""

    @property
    def promote(self) -> bool:
        return self.outcome == "promote"

    @property
    def tags(self) -> dict[str, str]:
        """What the version is to say of it."""
        return {} if self.repeated else {VERDICT: self.outcome, REASON: self.reason}


@dataclass(frozen=True)
class Candidate:
    """A model that may become champion, with what it is judged on."""

    bundle: Artifact
    data: Artifact
    labels: Artifact
    scores: Artifact


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
    candidate = Candidate(bundle, data, delegated.labels, scores)
    version, verdict = _judged(run, registry, candidate)
    if not verdict.promote:
        prefect_ui.tell(f"release    {verdict.outcome}: {verdict.reason}")
    alias = CHAMPION if verdict.promote else CHALLENGER
    run.release = Release(registry.name, version.number, alias, verdict.promote, verdict.reason)


def _judged(run: FlowRun, registry: Registry, candidate: Candidate) -> tuple[Version, Verdict]:
    """The version and the verdict on it, carried out: against whoever is champion at the moment of promotion."""
    bundle, settings = candidate.bundle, run.config.release
    for _ in range(JUDGEMENTS):
        verdict = _verdict(run, registry, candidate)
        version = registry.register(bundle, origin(run), verdict.tags)
        if verdict.outcome != "promote":
            registry.decided(version, verdict.outcome, verdict.reason)
            return version, verdict
        run.stage(SMOKE, settings.smoke, bundle=bundle, prepared=candidate.data, assessment=candidate.scores)
        again, against = settings.allow_rolled_back, verdict.champion
        try:
            reason = verdict.reason
            return registry.promote(version.number, reason, allow_rolled_back=again, judged_against=against), verdict
        except ChampionMovedError as moved:
            prefect_ui.tell(f"release    {moved}")
    reason = f"the champion changed {JUDGEMENTS} times while this model was judged; run `lacewing release` again"
    registry.decided(version, "hold", reason)
    return version, Verdict("hold", reason)


def origin(run: FlowRun) -> dict[str, str]:
    """Which run made a version, as tags."""
    overrides = {"lacewing.preset": run.preset, "lacewing.overrides": json.dumps(run.overrides)}
    return {CONFIG_DIGEST: run.config_digest, "lacewing.flow": run.flow, **overrides}


def _verdict(run: FlowRun, registry: Registry, candidate: Candidate) -> Verdict:
    champion = registry.champion()
    against = champion.key if champion else ""
    if against == candidate.bundle.key:
        return Verdict("promote", "it is the champion already", against, repeated=True)
    left = registry.rolled_back(candidate.bundle.key)
    if left and not run.config.release.allow_rolled_back:
        reason = f"{left} was rolled back before; release.allow_rolled_back=true promotes it again"
        return Verdict("refuse", reason, against)
    decision = run.stage(
        GATE,
        run.config.release.gate,
        bundle=candidate.bundle,
        prepared=candidate.data,
        labels=candidate.labels,
        champion=champion,
    ).details
    return Verdict(decision["outcome"], str(decision["reason"]), against)


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
        scores = assess_model(run, delegated, data)
    release_model(run, data, delegated, scores)
