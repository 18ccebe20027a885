"""``finetune=chat``: a model that converses, and asks a helper for facts if ``finetune.chat.delegate`` says so."""

from components.core.artifact import Artifact
from components.data.sources import fingerprint
from components.finetune.chat.artifact import Conversed
from components.labelling.fingerprint import pipeline_fingerprint
from flows.adapters import dvc
from flows.delegate import CALIBRATE, read_by_helper
from flows.evaluation import show_report
from flows.finetuning.base import Base
from flows.finetuning.release import register_challenger
from flows.label import LABEL
from flows.run import FlowRun, Stage

CHATS = Stage("chats", "components.finetune.chat.prepare:stage")
CHAT = Stage("chat", "components.finetune.chat.train:stage")
CONVERSE = Stage("converse", "components.finetune.chat.converse:stage")


def finetune_chat(run: FlowRun, base: Base) -> None:
    """Conversations, training, calibration on held-out conversations, and what is right of what it says."""
    chats = prepare_chats(run, base)
    with run.varied("of conversations", run.config):
        labels = run.stage(LABEL, run.config.label, prepared=chats, sources=_pipeline(run))
    delegate = run.config.finetune.chat.delegate
    model = run.stage(CHAT, run.config.chat, base=base.model, chats=chats, labels=labels if delegate else None)
    with run.varied("of conversations", run.config):
        calibration = run.stage(CALIBRATE, run.config.calibrate, delegated=model, prepared=chats, labels=labels)
    conversed = run.stage(
        CONVERSE,
        run.config.converse,
        model=model,
        base=base.model,
        chats=chats,
        prepared=base.data,
        calibration=calibration,
        sources=read_by_helper(run.config.cascade.helper),
    )
    show_report(run, conversed, Conversed.PAGE, "conversations-report", "How well the model converses")
    if run.config.finetune.release:
        register_challenger(run, base, model, calibration)


def prepare_chats(run: FlowRun, base: Base) -> Artifact:
    """Sources to packed conversations; the bytes go to DVC, as those of ``prepare`` do."""
    files = run.config.finetune.chat.data.files
    chats = run.stage(
        CHATS,
        run.config.chats,
        prepared=base.data,
        labels=base.labels if run.config.finetune.chat.delegate else None,
        sources=fingerprint(files) if files is not None else {},
    )
    if not run.dry:
        dvc.ensure_versioned(chats, run.config.versioning)
    return chats


def _pipeline(run: FlowRun) -> dict[str, str]:
    return pipeline_fingerprint(run.config.label, run.config.finetune.chat.data.sources)
