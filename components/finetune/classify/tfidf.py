"""TF-IDF with logistic regression: what a classifier without a language model comes to."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.measures import Decisions, decisions

_FOLDS = 3
_STRENGTHS = (10.0, 1.0, 100.0)
_WORDS = {"sublinear_tf": True}
_CHARACTERS = {"sublinear_tf": True, "analyzer": "char_wb", "ngram_range": (2, 5)}


def tfidf(train: Sequence[LabelledText], texts: Sequence[str], labels: LabelSet, seed: int) -> tuple[str, Decisions]:
    """The settings that were chosen, in words, and what it says of ``texts``.

    Cross-validation chooses between single words and runs of two to five characters, each at three strengths of the
    regularisation. Where a label has a single text nothing can be validated, and words at C=10 are taken.
    """
    wanted = decisions([text.labels for text in train], labels)
    single = labels.kind == "single"
    classifier = _classifier(single, int(wanted.sum(axis=0).min()), seed)
    classifier.fit([text.text for text in train], wanted.argmax(axis=1) if single else wanted)
    said = classifier.predict(list(texts))
    if single:
        said = said[:, None] == np.arange(len(labels.labels))
    return _chosen(classifier), said.astype(bool)


def _classifier(single: bool, fewest: int, seed: int) -> Any:
    """``fewest``: training texts of the rarest label."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import Pipeline

    regressions = [LogisticRegression(C=strength, max_iter=1000) for strength in _STRENGTHS]
    if not single:
        regressions = [OneVsRestClassifier(regression) for regression in regressions]
    steps = Pipeline([("features", TfidfVectorizer(**_WORDS)), ("regression", regressions[0])])
    if fewest < 2:
        return steps
    tried = {"features": [TfidfVectorizer(**_WORDS), TfidfVectorizer(**_CHARACTERS)], "regression": regressions}
    folds = (StratifiedKFold if single else KFold)(min(_FOLDS, fewest), shuffle=True, random_state=seed)
    return GridSearchCV(steps, tried, scoring="f1_macro", cv=folds)


def _chosen(classifier: Any) -> str:
    steps = getattr(classifier, "best_estimator_", classifier)
    regression = getattr(steps["regression"], "estimator", steps["regression"])
    unit = "words" if steps["features"].analyzer == "word" else "runs of 2 to 5 characters"
    return f"{unit}, C={regression.C:g}"
