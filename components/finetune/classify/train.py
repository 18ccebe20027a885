"""The stage ``classify``: a trained model and labelled texts in, a model with a head that tells the labels out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.core.artifact import Rows
from components.core.errors import InputError
from components.core.run import Run
from components.data.split import TRAIN, VALIDATION
from components.finetune.adapting import adapting
from components.finetune.classify.artifacts import Classifier, LabelledTexts
from components.finetune.classify.config import ClassifyStageConfig, NgramConfig
from components.finetune.classify.head import Head
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.ngrams import NgramScores
from components.finetune.classify.objective import LabelCrossEntropy
from components.training.config import PretrainConfig
from components.training.module import TrainingModule
from components.training.session import Session
from components.training.trained import TrainedModel


def stage(run: Run, config: ClassifyStageConfig, *, texts: LabelledTexts, base: TrainedModel) -> Classifier:
    """Train ``base`` and a new head to tell the labels of ``texts``.

    Raises ``InputError`` for class weights that do not fit the labels, and what ``Session.train`` raises.
    """
    model = base.load()
    settings = PretrainConfig(model=model.config, trainer=config.trainer)
    session = Session.open(settings)
    labels = texts.labels().model_copy(update={"pooling": config.head.pooling})
    weights = class_weights(texts.labelled(TRAIN), labels, config.head.class_weights)
    merge_adapter = adapting(model, config.adapter, texts.tokenizer_folder)
    ngrams = _ngrams(texts.labelled(TRAIN), labels, weights, config.head.ngrams)
    head = Head(model.config.width, labels, ngrams)
    validated = None if ngrams is None else torch.from_numpy(ngrams([text.text for text in texts.labelled(VALIDATION)]))
    objective = LabelCrossEntropy(head, config.head, weights, config.trainer.seed, validated)
    module = TrainingModule(model, config.trainer, objective)

    def save(folder: Path) -> None:
        # The validation is over, and nothing of the n-grams was chosen by it: they learn from its texts too.
        labelled = [*texts.labelled(TRAIN), *texts.labelled(VALIDATION)]
        head.ngrams = _ngrams(labelled, labels, weights, config.head.ngrams)
        head.save(folder)

    session.train(
        run,
        settings,
        texts,
        texts.shards(),
        module,
        "classify",
        columns=texts.columns(),
        details={"labels": labels.labels, "kind": labels.kind, "tokens_before": base.tokens_seen},
        rows=_rows,
        also_save=save,
        merge_adapter=merge_adapter,
    )
    return Classifier.open(run.folder)


def _ngrams(
    texts: Sequence[LabelledText], labels: LabelSet, weights: Float[Tensor, "labels"], config: NgramConfig
) -> NgramScores | None:
    """The scores of n-grams, if they count. A resumed run fits them anew: nothing in it is chance."""
    return NgramScores.fitted(texts, labels, weights.tolist(), config) if config.weight else None


def class_weights(
    texts: Sequence[LabelledText], labels: LabelSet, wanted: str | Mapping[str, float]
) -> Float[Tensor, "labels"]:
    """A weight for each label.

    ``balanced`` gives the texts of each label the same weight in all (with several labels a text: those that have it
    the same as those that have it not), as scikit-learn does. Raises ``InputError`` if the names that are given are
    not those of the labels.
    """
    if isinstance(wanted, str):
        counted = Counter(label for text in texts for label in text.labels)
        counts = np.array([max(1, counted[label]) for label in labels.labels])
        others = len(texts) / len(labels.labels) if labels.kind == "single" else np.maximum(1, len(texts) - counts)
        return torch.tensor(others / counts if wanted == "balanced" else np.ones(len(counts)), dtype=torch.float32)
    if wanted.keys() != set(labels.labels):
        differing = sorted(wanted.keys() ^ set(labels.labels))
        raise InputError(
            f"head.class_weights must name every label once: {', '.join(map(repr, differing[:6]))} "
            f"{'is' if len(differing) == 1 else 'are'} on one side only. The labels are {', '.join(labels.labels)}"
        )
    return torch.tensor([wanted[label] for label in labels.labels], dtype=torch.float32)


def _rows(metrics: Mapping[str, float]) -> Rows:
    accuracy, f1 = metrics["validation_accuracy"], metrics["validation_macro_f1"]
    return [("validation", f"{accuracy:.1%} right, macro-F1 {100 * f1:.1f}")]
