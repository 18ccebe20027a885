"""The stages as a whole: what they leave, that the classifier learns, and that no interruption changes it."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.split import TEST, TRAIN, VALIDATION
from components.finetune.classify import measure
from components.finetune.classify import texts as packing
from components.finetune.classify.artifacts import Classifier, LabelledTexts
from components.finetune.classify.config import (
    ClassifyConfig,
    ClassifyReportConfig,
    ClassifyStageConfig,
    HeadConfig,
    LabelledTextsConfig,
    NgramConfig,
)
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.ngrams import NgramScores
from components.finetune.classify.predict import TextClassifier
from components.finetune.classify.train import class_weights, stage
from components.training.config import TrainerConfig
from components.training.trained import TrainedModel
from tests.finetune.classify.conftest import sentences, write
from tests.test_pretrain import assert_bit_equal, weights

TRAINER = TrainerConfig(
    max_steps=30, batch_size=4, micro_batch_size=2, learning_rate=1e-2, optimizer="adamw", precision="32-true",
    threads=1, log_every_steps=1, validate_every_steps=10, checkpoint_every_steps=4,
)  # fmt: skip
CONFIG = ClassifyStageConfig(trainer=TRAINER)


@pytest.fixture(scope="module")
def classifier(texts: LabelledTexts, base: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return stage(Run.local(tmp_path_factory.mktemp("run"), "classify"), CONFIG, texts=texts, base=base)


def test_it_learns_and_says_so(classifier: Classifier, texts: LabelledTexts) -> None:
    test = texts.labelled(TEST)
    opened = TextClassifier.open(classifier.folder, "cpu")
    said = opened.predict([text.text for text in test])
    assert np.mean([given == text.labels for given, text in zip(said, test, strict=True)]) > 0.95
    assert classifier.metrics["validation_accuracy"] > 0.95
    assert classifier.record.rows[0][0] == "validation"
    assert classifier.details["labels"] == ["boats", "bread"]


def test_the_same_text_has_the_same_probabilities_in_any_company(classifier: Classifier) -> None:
    opened = TextClassifier.open(classifier.model_folder, "cpu")
    several = opened.probabilities(["river", "a town of books and birds", "", "sea " * 100], batch_texts=3)
    assert several.sum(axis=1) == pytest.approx(1)
    for number, text in enumerate(["river", "a town of books and birds", "", "sea " * 100]):
        assert opened.probabilities([text])[0] == pytest.approx(several[number], abs=1e-6)


def test_the_two_parts_can_be_asked_alone_and_their_odds_multiply(classifier: Classifier) -> None:
    opened = TextClassifier.open(classifier.folder, "cpu")
    texts = ["the river sea lake", "the winter town", "sea of books"]
    network, ngrams = (opened.probabilities(texts, parts=part) for part in ("network", "ngrams"))
    product = network * ngrams
    assert opened.probabilities(texts) == pytest.approx(product / product.sum(axis=1, keepdims=True), abs=1e-6)
    assert opened.predict(texts[:2], parts="ngrams") == [["boats"], ["bread"]]


def test_the_n_grams_learn_from_the_validation_texts_too(classifier: Classifier, texts: LabelledTexts) -> None:
    learnt = [*texts.labelled(TRAIN), *texts.labelled(VALIDATION)]
    found = TextClassifier.open(classifier.folder, "cpu").head.ngrams
    assert found is not None
    wanted = NgramScores.fitted(learnt, texts.labels(), [1.0, 1.0], NgramConfig())
    assert np.array_equal(found(["sea of books"]), wanted(["sea of books"]))


def test_without_n_grams_the_network_answers_alone(texts: LabelledTexts, base: TrainedModel, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"head": HeadConfig(ngrams=NgramConfig(weight=0.0))})
    opened = TextClassifier.open(stage(Run.local(tmp_path, "classify"), config, texts=texts, base=base).folder, "cpu")
    assert opened.head.ngrams is None
    asked = ["the river sea lake", "the winter town"]
    assert opened.predict(asked) == [["boats"], ["bread"]]
    assert np.array_equal(opened.probabilities(asked), opened.probabilities(asked, parts="network"))


def test_killed_and_resumed_the_weights_and_the_head_are_bit_equal(
    classifier: Classifier, texts: LabelledTexts, base: TrainedModel, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def log(metrics: Mapping[str, float], step: int | None) -> None:
        if step == 15:
            raise KilledError

    run = Run(tmp_path, Run.local(tmp_path, "classify").identity, log=log)
    with pytest.raises(KilledError):
        stage(run, CONFIG, texts=texts, base=base)
    resumed = stage(Run.local(tmp_path, "classify"), CONFIG, texts=texts, base=base)
    assert_bit_equal(weights(classifier.folder), weights(resumed.folder))
    for name in (Classifier.HEAD, Classifier.LABELS):
        assert (resumed.model_folder / name).read_bytes() == (classifier.model_folder / name).read_bytes()


def test_the_report_sets_the_others_beside_it(
    classifier: Classifier, texts: LabelledTexts, base: TrainedModel, tmp_path: Path
) -> None:
    config = ClassifyReportConfig(resamples=100, prompted_texts=8, shots=2)
    found = measure.stage(Run.local(tmp_path), config, classifier=classifier, texts=texts, base=base)
    assert found.metrics["accuracy"] > 0.95
    assert found.metrics["TF-IDF with logistic regression/accuracy"] == 1.0
    assert {"f1/boats", "f1/bread", "always the commonest label/macro_f1"} <= found.metrics.keys()
    page = found.report.read_text()
    for name in ("always the commonest label", "its network alone", "its n-grams alone"):
        assert name in page
    assert "the base, prompted with 2 examples on the 8 texts that both were given" in page
    assert "<svg" in found.page.read_text()
    rows = [json.loads(line) for line in found.path(found.PREDICTIONS).read_text().splitlines()]
    assert [row["id"] for row in rows] == [text.id for text in texts.labelled(TEST)]
    right = np.mean([row["others"]["its n-grams alone"] == row["labels"] for row in rows])
    assert right == found.metrics["its n-grams alone/accuracy"]


def test_several_labels_are_learnt_and_measured_too(prepared: PreparedData, base: TrainedModel, tmp_path: Path) -> None:
    rows = [{**row, "label": [row["label"], "any"]} for row in sentences(120)]
    data = LabelledTextsConfig(train=[str(write(tmp_path / "rows.jsonl", rows))], kind="multi", similarity=1.0)
    texts = packing.stage(Run.local(tmp_path / "texts"), data, prepared=prepared, base=base)
    config = CONFIG.model_copy(update={"head": HeadConfig(pooling="last")})
    found = stage(Run.local(tmp_path / "run", "classify"), config, texts=texts, base=base)
    assert TextClassifier.open(found.folder, "cpu").predict(["the sea river oak"]) == [["any", "boats"]]
    report = ClassifyReportConfig(resamples=100, prompted_texts=4)
    measured = measure.stage(Run.local(tmp_path / "report"), report, classifier=found, texts=texts, base=base)
    assert measured.metrics["f1/any"] == 1.0


def test_weights_are_balanced_or_given_for_every_label() -> None:
    texts = [LabelledText(id="", text="", labels=[label]) for label in "aaab"]
    labels = LabelSet(kind="single", labels=["a", "b"])
    assert class_weights(texts, labels, "equal").tolist() == [1, 1]
    assert class_weights(texts, labels, "balanced").tolist() == pytest.approx([2 / 3, 2])
    several = labels.model_copy(update={"kind": "multi"})
    assert class_weights(texts, several, "balanced").tolist() == pytest.approx([1 / 3, 3])
    assert class_weights(texts, labels, {"b": 2.0, "a": 1.0}).tolist() == [1, 2]
    with pytest.raises(InputError, match="must name every label once: 'b', 'c' are on one side only"):
        class_weights(texts, labels, {"a": 1.0, "c": 1.0})


def test_texts_of_each_label_cannot_be_counted_where_a_text_has_several() -> None:
    with pytest.raises(ValueError, match="is for one label a text"):
        ClassifyConfig.model_validate({"data": {"kind": "multi", "per_class": 5}})


def test_a_model_without_a_head_or_with_another_is_refused(
    classifier: Classifier, base: TrainedModel, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"has no labels.json: give the result of `lacewing finetune"):
        TextClassifier.open(base.folder)
    for file in classifier.model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    labels = LabelSet(kind="single", labels=["a", "b", "c"])
    (tmp_path / Classifier.LABELS).write_text(labels.model_dump_json())
    with pytest.raises(ArtifactError, match=r"head.safetensors is no head of this model"):
        TextClassifier.open(tmp_path)
    (tmp_path / Classifier.LABELS).write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be read as a set of labels"):
        TextClassifier.open(tmp_path)
