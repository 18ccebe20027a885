"""Preference tuning: the model learns which of two answers to prefer, and is measured on held-out pairs."""

from components.core.artifact import Artifact
from components.data.config import DataConfig
from components.data.sources import WORLD, fingerprint
from components.finetune.preference.artifact import PreferenceAssessment
from flows.evaluation import show_report
from flows.finetuning.base import Base
from flows.run import FlowRun, Stage

PREFERENCES = Stage("preferences", "components.finetune.preference.pairs:stage")
REFERENCE = Stage("reference", "components.finetune.preference.reference:stage")
PREFER = Stage("prefer", "components.finetune.preference.train:stage")
ASSESS = Stage("assess-preference", "components.finetune.preference.assess:stage")


def finetune_preference(run: FlowRun, base: Base) -> Artifact:
    """Pairs, what the base makes of them, the training, and a report; returns the trained model."""
    asked = run.config.finetune.preference.pairs
    files = [source for source in asked.sources if source != WORLD]
    read = fingerprint(DataConfig(sources=files)) if files else {}
    pairs = run.stage(PREFERENCES, asked, prepared=base.data, model=base.model, sources=read)
    reference = run.stage(REFERENCE, run.config.reference, pairs=pairs, model=base.model)
    model = run.stage(PREFER, run.config.prefer, prepared=base.data, pairs=pairs, reference=reference, base=base.model)
    report = run.stage(
        ASSESS,
        run.config.assess_preference,
        model=model,
        base=base.model,
        pairs=pairs,
        reference=reference,
        prepared=base.data,
    )
    show_report(run, report, PreferenceAssessment.PAGE, "preference-report", "Which answers the model prefers")
    return model
