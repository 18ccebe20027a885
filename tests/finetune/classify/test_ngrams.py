from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from components.finetune.classify.config import NgramConfig
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.ngrams import Ngrams, NgramScores

TEXTS = ["A lake, a sea; the RIVER sea", "bread in the oven", "the bread of a town", "ü", "...", "x2 it's"]
LABELS = LabelSet(kind="single", labels=["boats", "bread", "towns"])


def labelled(labels: Sequence[Sequence[str]]) -> list[LabelledText]:
    return [LabelledText(id="", text=text, labels=list(each)) for text, each in zip(TEXTS, labels, strict=False)]


def fitted(labels: Sequence[Sequence[str]], kind: str = "single", **settings: float) -> NgramScores:
    set_of_labels = LABELS.model_copy(update={"kind": kind})
    return NgramScores.fitted(labelled(labels), set_of_labels, [1.0, 1.0, 1.0], NgramConfig.model_validate(settings))


def test_texts_resemble_each_other_as_in_scikit_learn() -> None:
    ngrams = Ngrams.of(TEXTS, most=10_000)
    found = ngrams.features([*TEXTS, "an unknown lake"])
    wanted = 0.0
    for settings in (
        {"analyzer": "char_wb", "ngram_range": (2, 5)},
        {"ngram_range": (1, 2), "token_pattern": r"[^\W_]+"},
    ):
        vectors = TfidfVectorizer(sublinear_tf=True, **settings).fit(TEXTS).transform([*TEXTS, "an unknown lake"])
        wanted = wanted + (vectors @ vectors.T).toarray()
    assert (found @ found.T).toarray() == pytest.approx(wanted, abs=1e-6)


def test_those_that_most_texts_have_are_kept() -> None:
    ngrams = Ngrams.of(["a b", "a c", "a"], most=4)
    everything = Ngrams.of(["a b", "a c", "a"], most=100)
    assert len(everything.hashes) > len(ngrams.hashes) == 4
    assert set(ngrams.hashes) <= set(everything.hashes)
    assert ngrams.rarity == pytest.approx([1.0] * 4)  # the word a, and its three runs of characters
    assert (np.diff(ngrams.hashes) > 0).all()


def test_labels_are_told_and_a_text_of_nothing_known_gets_the_bias() -> None:
    scores = fitted([["boats"], ["bread"], ["towns"]])
    assert scores(TEXTS[:3]).argmax(axis=1).tolist() == [0, 1, 2]
    assert scores([""])[0].tolist() == scores.bias.tolist()
    assert scores([]).shape == (0, 3)
    doubled = fitted([["boats"], ["bread"], ["towns"]], weight=2.0)
    assert doubled(TEXTS) == pytest.approx(2 * scores(TEXTS), abs=1e-5)


def test_a_label_without_a_text_is_not_said() -> None:
    scores = fitted([["boats"], ["towns"], ["towns"]])
    assert scores(TEXTS[:3]).argmax(axis=1).tolist() == [0, 2, 2]
    assert fitted([["bread"], ["bread"]])(["anything"]).argmax() == 1


def test_with_several_labels_each_has_a_regression_of_its_own() -> None:
    scores = fitted([["boats", "bread"], ["bread"], ["bread", "towns"]], "multi")
    assert (scores(TEXTS[:3]) > 0).tolist() == [[True, True, False], [False, True, False], [False, True, True]]
    assert scores(["anything"])[0, 1] == pytest.approx(np.log(3.5 / 0.5))


def test_a_heavier_label_is_said_of_texts_that_say_nothing() -> None:
    texts = labelled([["boats"], ["bread"], ["towns"]])
    for label in range(3):
        weights = [50.0 if number == label else 1.0 for number in range(3)]
        assert NgramScores.fitted(texts, LABELS, weights, NgramConfig())([""]).argmax() == label


def test_they_are_read_again_as_they_were_and_refused_if_they_do_not_fit() -> None:
    scores = fitted([["boats"], ["bread"], ["towns"]])
    tensors = scores.tensors()
    assert np.array_equal(NgramScores.of_tensors(tensors, 3)(TEXTS), scores(TEXTS))
    with pytest.raises(ValueError, match="do not fit 2 labels"):
        NgramScores.of_tensors(tensors, 2)
    with pytest.raises(ValueError, match="the n-grams have no 'bias'"):
        NgramScores.of_tensors({name: tensor for name, tensor in tensors.items() if name != "bias"}, 3)
    assert tensors["hashes"].dtype == torch.int64
