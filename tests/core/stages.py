"""The stages that ship: the function of each, and its slice of the configuration."""

from collections.abc import Callable

from pydantic import BaseModel

from components.evaluation.sweep.config import SweepReportConfig
from components.finetune.classify.config import ClassifyStageConfig
from conf.schema import ProjectConfig

NO_TRIALS = SweepReportConfig(metric="validation_loss", better="lower", confidence=0.95, trials=[], seeds={})

STAGES: dict[str, tuple[str, Callable[[ProjectConfig], BaseModel]]] = {
    "prepare": ("components.data.prepare:stage", lambda config: config.data),
    "pretrain": ("components.pretrain:stage", lambda config: config.pretrain),
    "derive": ("components.derive.stage:stage", lambda config: config.derivation("")),
    "label": ("components.labelling.stage:stage", lambda config: config.label),
    "delegate": ("components.delegation.train:stage", lambda config: config.delegate),
    "calibrate": ("components.delegation.calibrate:stage", lambda config: config.calibrate),
    "cascade": ("components.evaluation.factuality.stage:stage", lambda config: config.cascade_assess),
    "chats": ("components.finetune.chat.prepare:stage", lambda config: config.chats),
    "chat": ("components.finetune.chat.train:stage", lambda config: config.chat),
    "converse": ("components.finetune.chat.converse:stage", lambda config: config.converse),
    "study": ("components.evaluation.factuality.study:stage", lambda config: config.study_table),
    "sweep": ("components.evaluation.sweep.stage:stage", lambda config: NO_TRIALS),
    "compare": ("components.evaluation.comparison.stage:stage", lambda config: config.comparison),
    "arena": ("components.evaluation.arena.stage:stage", lambda config: config.arena_of([])),
    "preferences": (
        "components.finetune.preference.pairs:stage",
        lambda config: config.finetune.preference.pairs,
    ),
    "reference": ("components.finetune.preference.reference:stage", lambda config: config.reference),
    "prefer": ("components.finetune.preference.train:stage", lambda config: config.prefer),
    "assess-preference": ("components.finetune.preference.assess:stage", lambda config: config.assess_preference),
    "teach": ("components.finetune.distill.teach:stage", lambda config: config.teach),
    "write": ("components.finetune.distill.write:stage", lambda config: config.writing("")),
    "choose": ("components.finetune.distill.choose:stage", lambda config: config.choose),
    "distill": ("components.finetune.distill.train:stage", lambda config: config.distill),
    "assess": ("components.evaluation.assess:stage", lambda config: config.assess),
    "evaluate": ("components.evaluation.evaluate:stage", lambda config: config.evaluation("", "")),
    "classify-texts": ("components.finetune.classify.texts:stage", lambda config: config.finetune.classify.data),
    "classify": (
        "components.finetune.classify.train:stage",
        lambda config: ClassifyStageConfig(head=config.finetune.classify.head, trainer=config.finetune.training),
    ),
    "classify-report": ("components.finetune.classify.measure:stage", lambda config: config.finetune.classify.report),
    "bundle": ("components.deployment.bundle:stage", lambda config: config.bundle),
    "gate": ("components.evaluation.gate.stage:stage", lambda config: config.release.gate),
    "smoke": ("components.deployment.smoke:stage", lambda config: config.release.smoke),
}
