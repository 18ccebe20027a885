"""Classification: labelled texts, a model with a head that tells the labels, and how well it does."""

from components.core.artifact import Artifact
from components.finetune.classify.artifacts import Classification
from components.finetune.classify.config import ClassifyStageConfig
from components.finetune.classify.sources import fingerprint
from flows.evaluation import show_report
from flows.finetuning.base import Base
from flows.run import FlowRun, Stage

TEXTS = Stage("classify-texts", "components.finetune.classify.texts:stage")
CLASSIFY = Stage("classify", "components.finetune.classify.train:stage")
REPORT = Stage("classify-report", "components.finetune.classify.measure:stage")


def finetune_classify(run: FlowRun, base: Base) -> Artifact:
    """Texts with labels to a classifier; its report is shown in Prefect and kept in MLflow."""
    settings = run.config.finetune
    files = fingerprint([*settings.classify.data.train, *settings.classify.data.test])
    texts = run.stage(TEXTS, settings.classify.data, prepared=base.data, base=base.model, sources=files)
    training = ClassifyStageConfig(head=settings.classify.head, trainer=settings.training, adapter=settings.adapter)
    classifier = run.stage(CLASSIFY, training, texts=texts, base=base.model)
    report = run.stage(REPORT, settings.classify.report, classifier=classifier, texts=texts, base=base.model)
    show_report(run, report, Classification.PAGE, "classification-report", "How well the labels are told")
    return classifier
