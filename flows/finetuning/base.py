"""Where finetuning starts: a trained model, with the data and the labels that it learnt from."""

from dataclasses import dataclass

from components.core.artifact import Artifact
from flows.delegate import taught_model
from flows.label import label_facts
from flows.prepare import prepare_data
from flows.pretrain import pretrain_model
from flows.run import FlowRun


@dataclass(frozen=True)
class Base:
    """The model that a method starts from."""

    data: Artifact
    labels: Artifact
    model: Artifact


def base_model(run: FlowRun) -> Base:
    """What ``finetune.base`` names, trained first if it is missing."""
    data = prepare_data(run)
    labels = label_facts(run, data)
    plain = pretrain_model(run, data)
    model = plain if run.config.finetune.base == "pretrained" else taught_model(run, data, labels, plain)
    return Base(data, labels, model)
