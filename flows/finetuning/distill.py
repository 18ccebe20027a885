"""Distillation: a student learns what a teacher expects of every token, or the text that it writes."""

from components.core.artifact import Artifact
from components.core.inputs import models_fingerprint
from components.model.bundle import Bundle
from flows.adapters import dvc
from flows.evaluation import Subject, find_subject
from flows.finetuning.base import Base
from flows.run import FlowRun, Stage

TEACH = Stage("teach", "components.finetune.distill.teach:stage")
WRITE = Stage("write", "components.finetune.distill.write:stage")
CHOOSE = Stage("choose", "components.finetune.distill.choose:stage")
DISTILL = Stage("distill", "components.finetune.distill.train:stage")

_SETTING = "finetune.distill.teacher"


def finetune_distill(run: FlowRun, base: Base) -> Artifact:
    """What the teacher tells, and the student that learns it; returns the student."""
    settings = run.config.finetune.distill
    # Without a teacher, the stage says what to give.
    teacher = find_subject(settings.teacher, run.config.tracking) if settings.teacher else Subject("")
    start = base.model if settings.start == "base" else None
    if settings.text == "written":
        chosen = chosen_texts(run, base, teacher)
        return run.stage(DISTILL, run.config.distill, prepared=base.data, chosen=chosen, base=start)
    folder = str(teacher.artifact.folder) if teacher.artifact is not None else teacher.place
    asked = run.config.teach.model_copy(update={"teacher": folder})
    teaching = run.stage(TEACH, asked, prepared=base.data, sources=models_fingerprint({_SETTING: folder}))
    return run.stage(DISTILL, run.config.distill, prepared=base.data, teaching=teaching, base=start)


def chosen_texts(run: FlowRun, base: Base, teacher: Subject) -> Artifact:
    """What the teacher writes, and what of it is learnt. Its texts go to DVC: they may have been paid for."""
    bundled = teacher.artifact is not None and teacher.artifact.stage in Bundle.stages
    texts = run.stage(
        WRITE,
        run.config.writing(teacher.place),
        prepared=base.data,
        bundle=teacher.artifact if bundled else None,
        trained=None if bundled else teacher.artifact,
        # A server has no digest. Whoever it is, what it wrote is the content that later keys are made of.
        sources=models_fingerprint({_SETTING: teacher.place if teacher.sources else ""}),
    )
    if not run.dry:
        dvc.ensure_versioned(texts, run.config.versioning)
    chosen = run.config.choose
    needy = base.model if chosen.choice.need < 1 else None
    return run.stage(CHOOSE, chosen, prepared=base.data, texts=texts, base=needy)
