"""The stage ``classify-report``: how good a classifier is, beside what it has to beat."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from components.core.acceptance import accepted_section
from components.core.artifact import REPORT, Rows
from components.core.atomic import write_text
from components.core.run import Run
from components.data.split import TEST, TRAIN, VALIDATION
from components.evaluation.report_page import markdown, page
from components.evaluation.text_models.ours import LacewingModel
from components.finetune.classify.artifacts import Classification, Classifier, LabelledTexts
from components.finetune.classify.config import ClassifyReportConfig
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.measures import (
    Decisions,
    LabelScores,
    commonest,
    decisions,
    label_scores,
    macro_f1_gain,
    measures,
)
from components.finetune.classify.predict import TextClassifier
from components.finetune.classify.prompted import chosen_examples, prompted
from components.finetune.classify.report import TITLE, sections
from components.finetune.classify.results import FINETUNED, NETWORK, NGRAMS, TFIDF, Contender, Mistake
from components.finetune.classify.tfidf import tfidf
from components.training.trained import TrainedModel

_METRIC = re.compile(r"[^\w./ -]")  # signs that MLflow does not take in the name of a metric


def stage(
    run: Run, config: ClassifyReportConfig, *, classifier: Classifier, texts: LabelledTexts, base: TrainedModel
) -> Classification:
    """Measure ``classifier`` on the test texts, TF-IDF, prompting of ``base`` and the commonest label beside it.

    Metrics: ``accuracy`` and ``macro_f1`` of the classifier, ``<contender>/accuracy`` and so on of the others, and
    ``f1/<label>``. Raises ``ArtifactError`` for damaged inputs.
    """
    labels, test = texts.labels(), texts.labelled(TEST)
    true = decisions([text.labels for text in test], labels)
    run.report(0.0, f"telling the labels of {len(test):,} texts")
    said = {
        name: (about, found)
        for name, about, found in _answers(run, config, classifier.verify(), texts, base.verify(), test)
    }
    contenders = [
        _contender(name, about, true, found, said[FINETUNED][1], config) for name, (about, found) in said.items()
    ]
    whole = {name: found for name, (_, found) in said.items() if len(found) == len(test)}
    scores = {name: label_scores(true, whole[name]) for name in (FINETUNED, TFIDF)}
    mistakes = list(_mistakes(test, true, whole[FINETUNED], labels))
    _write_predictions(run, test, whole, labels)
    parts = list(sections(contenders, labels, true, whole, scores, mistakes[: config.mistakes], texts.metrics))
    write_text(run.folder / Classification.PAGE, page(TITLE, parts))
    write_text(run.folder / REPORT, markdown(TITLE, parts) + accepted_section(run.accepted))
    metrics = _metrics(contenders, labels, scores[FINETUNED])
    run.log(metrics, None)
    run.report(1.0, f"{metrics['accuracy']:.1%} right")
    return run.seal(metrics, {"labels": labels.labels}, _rows(contenders), view=Classification)


def _answers(
    run: Run,
    config: ClassifyReportConfig,
    classifier: Classifier,
    texts: LabelledTexts,
    base: TrainedModel,
    test: Sequence[LabelledText],
) -> Iterator[tuple[str, str, Decisions]]:
    """Name of every contender, what there is to say of it, and its decisions on the first texts of ``test``."""
    labels = texts.labels()
    train = [*texts.labelled(TRAIN), *texts.labelled(VALIDATION)]  # they need no validation of their own
    asked = [text.text for text in test]
    opened = TextClassifier.open(classifier.folder)
    yield FINETUNED, "", decisions(opened.predict(asked), labels)
    if opened.head.ngrams is not None:
        yield NETWORK, "", decisions(opened.predict(asked, "network"), labels)
        yield NGRAMS, "", decisions(opened.predict(asked, "ngrams"), labels)
    run.report(0.2, TFIDF)
    yield TFIDF, *tfidf(train, asked, labels, config.seed)
    if config.prompted_texts:
        with closing(LacewingModel.of_training(base, "base")) as model:
            few = asked[: config.prompted_texts]
            for progress, shots in ((0.4, 0), (0.7, config.shots)):
                run.report(progress, f"prompting with {shots} examples")
                examples = chosen_examples(train, shots, config.seed)
                name = f"the base, prompted with {shots} examples" if shots else "the base, prompted without an example"
                yield name, "", prompted(model, examples, few, labels)
    about, answers = commonest(train, len(test), labels)
    yield "always the commonest label", about, answers


def _contender(
    name: str, about: str, true: Decisions, said: Decisions, finetuned: Decisions, config: ClassifyReportConfig
) -> Contender:
    texts = len(said)
    found = measures(true[:texts], said, config)
    behind = None if name == FINETUNED else macro_f1_gain(true[:texts], finetuned[:texts], said, config)
    return Contender(name, about, texts, found.accuracy, found.macro_f1, behind)


def _mistakes(test: Sequence[LabelledText], true: Decisions, said: Decisions, labels: LabelSet) -> Iterator[Mistake]:
    for text, right, given in zip(test, true, said, strict=True):
        if (right != given).any():
            yield Mistake(text.text, _in_words(right, labels), _in_words(given, labels))


def _in_words(decided: Decisions, labels: LabelSet) -> str:
    return " and ".join(label for label, has in zip(labels.labels, decided, strict=True) if has) or "no label"


def _write_predictions(run: Run, test: Sequence[LabelledText], said: Mapping[str, Decisions], labels: LabelSet) -> None:
    """A line for each text: its labels, those that the finetuned model says, and what each of the others says."""

    def named(row: Decisions) -> list[str]:
        return [label for label, has in zip(labels.labels, row, strict=True) if has]

    rows = (
        {
            "id": text.id,
            "labels": text.labels,
            "said": named(said[FINETUNED][number]),
            "others": {name: named(found[number]) for name, found in said.items() if name != FINETUNED},
        }
        for number, text in enumerate(test)
    )
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(run.folder / Classification.PREDICTIONS, lines)


def _metrics(contenders: Sequence[Contender], labels: LabelSet, scores: Sequence[LabelScores]) -> dict[str, float]:
    finetuned, *others = contenders
    metrics = {"accuracy": finetuned.accuracy.estimate, "macro_f1": finetuned.macro_f1.estimate}
    for other in others:
        metrics |= {
            f"{other.name}/accuracy": other.accuracy.estimate,
            f"{other.name}/macro_f1": other.macro_f1.estimate,
        }
    metrics |= {f"f1/{label}": score.f1 for label, score in zip(labels.labels, scores, strict=True)}
    return {_METRIC.sub("_", name): value for name, value in metrics.items()}


def _rows(contenders: Sequence[Contender]) -> Rows:
    finetuned, *others = contenders
    rival = next(each for each in others if each.name == TFIDF)
    return [
        ("labels told", f"{finetuned.accuracy.estimate:.1%} of {finetuned.texts:,} texts, macro-F1 "
         f"{100 * finetuned.macro_f1.estimate:.1f}"),
        ("TF-IDF beside it", f"{rival.accuracy.estimate:.1%}, macro-F1 {100 * rival.macro_f1.estimate:.1f}: "
         f"the model is {rival.verdict} it"),
    ]  # fmt: skip
