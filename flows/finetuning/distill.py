"""Distillation: the teacher is asked about every token once, then a student learns from text and teacher."""

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.inputs import models_fingerprint
from flows.evaluation import find_subject
from flows.finetuning.base import Base
from flows.run import FlowRun, Stage

TEACH = Stage("teach", "components.finetune.distill.teach:stage")
DISTILL = Stage("distill", "components.finetune.distill.train:stage")


def finetune_distill(run: FlowRun, base: Base) -> Artifact:
    """What the teacher expects, and the student that learns it; returns the student."""
    teacher = _folder_of(run, run.config.finetune.distill.teacher)
    asked = run.config.teach.model_copy(update={"teacher": teacher})
    read = models_fingerprint({"finetune.distill.teacher": teacher})
    teaching = run.stage(TEACH, asked, prepared=base.data, sources=read)
    start = base.model if run.config.finetune.distill.start == "base" else None
    return run.stage(DISTILL, run.config.distill, prepared=base.data, teaching=teaching, base=start)


def _folder_of(run: FlowRun, reference: str) -> str:
    """The folder of the model that ``reference`` means; raises ``InputError`` if it is none or is only served."""
    if not reference:
        return ""  # the stage says what to give
    subject = find_subject(reference, run.config.tracking)
    if subject.artifact is not None:
        return str(subject.artifact.folder)
    if "://" in subject.place:
        raise InputError(
            f"finetune.distill.teacher={reference} is a served model, which does not tell all it expects: give the "
            "folder of a model, or a registered one"
        )
    return subject.place
