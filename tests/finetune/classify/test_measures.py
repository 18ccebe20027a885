import numpy as np
import pytest
from sklearn.metrics import f1_score

from components.evaluation.config import BootstrapConfig
from components.evaluation.results import Interval
from components.evaluation.text_models.base import Continuation, Likelihood
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.measures import (
    Decisions,
    commonest,
    decisions,
    label_scores,
    macro_f1_gain,
    measures,
)
from components.finetune.classify.prompted import chosen_examples, prompted
from components.finetune.classify.report import confusion, verdicts
from components.finetune.classify.results import FINETUNED, TFIDF, Contender
from components.finetune.classify.tfidf import tfidf
from tests.finetune.classify.conftest import sentences

BOOTSTRAP = BootstrapConfig(resamples=400)
LABELS = LabelSet(kind="single", labels=["boats", "bread"])


def drawn(texts: int, right: float, seed: int = 0) -> tuple[Decisions, Decisions]:
    """Labels of three, and answers that are right so often."""
    random = np.random.default_rng(seed)
    true = random.integers(3, size=texts)
    said = np.where(random.random(texts) < right, true, random.integers(3, size=texts))
    return np.arange(3) == true[:, None], np.arange(3) == said[:, None]


def test_macro_f1_is_scikit_learns_and_lies_in_its_interval() -> None:
    true, said = drawn(200, 0.7)
    found = measures(true, said, BOOTSTRAP)
    assert found.macro_f1.estimate == pytest.approx(f1_score(true, said, average="macro"))
    assert found.accuracy.estimate == (true.argmax(1) == said.argmax(1)).mean()
    for each in (found.macro_f1, found.accuracy):
        assert each.low < each.estimate < each.high
        assert 0.08 < each.high - each.low < 0.2  # 4 standard errors of a share of 0.8 of 200
    assert [each.f1 for each in label_scores(true, said)] == pytest.approx(f1_score(true, said, average=None))


def test_a_gain_is_paired() -> None:
    """A contender that is wrong on five texts more is behind for sure, however uncertain its own score is."""
    true, said = drawn(100, 0.6)
    worse = said.copy()
    right = np.flatnonzero((true == said).all(axis=1))[:8]
    worse[right] = np.roll(worse[right], 1, axis=1)
    gain = macro_f1_gain(true, said, worse, BOOTSTRAP)
    assert 0 < gain.low < gain.estimate < gain.high
    assert macro_f1_gain(true, said, said, BOOTSTRAP) == (0, 0, 0)


def test_a_label_that_never_occurs_counts_for_nothing() -> None:
    true = np.array([[True, False, False], [False, True, False]])
    assert measures(true, true, BOOTSTRAP).macro_f1 == (1, 1, 1)


def rows(count: int, seed: int = 0) -> list[LabelledText]:
    return [
        LabelledText(id=str(number), text=str(row["text"]), labels=[str(row["label"])])
        for number, row in enumerate(sentences(count, seed))
    ]


def test_tfidf_finds_what_words_tell() -> None:
    test = rows(20, seed=1)
    about, said = tfidf(rows(40), [each.text for each in test], LABELS, seed=0)
    assert (said == decisions([each.labels for each in test], LABELS)).all()
    assert about.endswith(("C=1", "C=10", "C=100"))


def test_tfidf_takes_several_labels_and_labels_of_one_text() -> None:
    labels = LabelSet(kind="multi", labels=["any", "boats", "bread"])
    train = [each.model_copy(update={"labels": ["any", *each.labels]}) for each in rows(41)]
    train[0] = train[0].model_copy(update={"labels": []})
    _, said = tfidf(train, [each.text for each in rows(10, seed=1)], labels, seed=0)
    assert said.shape == (10, 3)
    assert said[:, 0].all()
    about, said = tfidf(rows(2), ["the river", "the town"], LABELS, seed=0)
    assert about == "words, C=10"
    assert said.shape == (2, 2)


def test_the_commonest_label_is_said_of_every_text() -> None:
    about, said = commonest(rows(41), 3, LABELS)
    assert about == "boats"
    assert said.tolist() == [[True, False]] * 3


class Prejudiced:
    """Likes ``bread`` by ten nats whatever the text, and what the text names by three."""

    name = identity = "prejudiced"
    context_length = 100

    def likelihoods(self, requests: list[Continuation]) -> list[Likelihood]:
        self.requests = requests
        return [
            Likelihood(10.0 * (each.text == " bread") + 3.0 * (each.text in each.context.splitlines()[-2]), False, 1)
            for each in requests
        ]


def test_prompting_takes_away_what_a_label_has_without_a_text() -> None:
    model = Prejudiced()
    examples = chosen_examples(rows(40), 3, seed=0)
    said = prompted(model, examples, ["all boats", "all bread"], LABELS)  # type: ignore[arg-type]
    assert said.tolist() == [[True, False], [False, True]]
    assert model.requests[-1].context.count("Label:") == 4
    assert model.requests[-1].context.endswith("Text: all bread\nLabel:")
    assert {label for each in examples[:2] for label in each.labels} == {"boats", "bread"}


def test_the_confusion_matrix_has_a_row_for_each_label() -> None:
    true, said = drawn(50, 0.5)
    counts = confusion(true, said)
    assert counts.sum() == 50
    assert counts.trace() == (true & said).sum()
    assert counts.sum(axis=1).tolist() == true.sum(axis=0).tolist()


@pytest.mark.parametrize(
    ("behind", "words"),
    [
        ((0.02, 0.01, 0.03), "better than"),
        ((-0.02, -0.03, -0.01), "worse than"),
        ((0.01, -0.01, 0.03), "not told apart from"),
    ],
)
def test_the_report_says_in_words_whether_the_model_beats_tfidf(behind: tuple[float, float, float], words: str) -> None:
    own = Contender(FINETUNED, "", 100, Interval(0.9, 0.8, 1.0), Interval(0.9, 0.8, 1.0))
    other = Contender(TFIDF, "", 50, own.accuracy, own.macro_f1, Interval(*behind))
    said = [each.text for each in verdicts([own, other])]
    assert said[0].startswith("The finetuned model tells 90.0 % (80.0 to 100.0) of 100 test texts right; its macro-F1")
    assert said[1].startswith(
        f"It is {words} {TFIDF} on the 50 texts that both were given: {100 * behind[0]:+.1f} points"
    )
