"""A finetuned model in the registry: bundled and assessed like any other, as challenger, never champion by itself.

What the gate compares is text, and a model for a purpose pays in that: whether it becomes champion, a person decides.
"""

from components.core.artifact import Artifact
from flows.assess import ASSESS
from flows.delegate import read_by_helper
from flows.finetuning.base import Base
from flows.promotion import CHALLENGER, Registry
from flows.release import BUNDLE, origin
from flows.run import FlowRun


def register_challenger(run: FlowRun, base: Base, model: Artifact, calibration: Artifact | None) -> None:
    """Bundle ``model`` and register it as challenger; ``calibration`` says when it asks, if it does."""
    scores = run.stage(ASSESS, run.config.assess, model=model, prepared=base.data)
    bundle = run.stage(
        BUNDLE,
        run.config.bundle,
        delegated=model,
        prepared=base.data,
        assessment=scores,
        calibration=calibration,
        sources=read_by_helper(run.config.bundle.cascade.helper),
    )
    if run.dry:
        return
    registry = Registry(run.config.tracking)
    version = registry.register(bundle, origin(run), {})
    run.rows.append(("registry", f"{registry.name} version {version.number}, {CHALLENGER}"))
