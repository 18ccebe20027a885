"""The base as a classifier without any training: which label does it expect after the text?

A prompt is ``Text: ...`` and ``Label:`` on two lines, before it as many examples of that form as are wanted. Each label
is scored by the log-likelihood of its words, less that after a prompt without a text: otherwise a frequent or a short
label would always win (Zhao et al. 2021, arXiv:2102.09690). One label is named, also where a text may have several.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest

import numpy as np

from components.evaluation.text_models.base import Continuation, TextModel
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.measures import Decisions


def prompted(model: TextModel, examples: Sequence[LabelledText], texts: Sequence[str], labels: LabelSet) -> Decisions:
    """What ``model`` says of each text, after ``examples``."""
    before = "".join(f"{_prompt(text.text)} {_words(text.labels[0])}\n\n" for text in examples if text.labels)
    asked = [before + _prompt(text) for text in ("", *texts)]
    requests = [Continuation(prompt, f" {_words(label)}") for prompt in asked for label in labels.labels]
    scores = np.array([each.log_likelihood for each in model.likelihoods(requests)]).reshape(len(asked), -1)
    best = (scores[1:] - scores[0]).argmax(axis=1)
    found: Decisions = np.arange(len(labels.labels)) == best[:, None]
    return found


def chosen_examples(train: Sequence[LabelledText], count: int, seed: int) -> list[LabelledText]:
    """Training texts by chance, a text of each label before the second of any."""
    groups: defaultdict[tuple[str, ...], list[LabelledText]] = defaultdict(list)
    for number in np.random.default_rng(seed).permutation(len(train)):
        groups[tuple(train[number].labels)].append(train[number])
    in_turn = chain.from_iterable(zip_longest(*groups.values()))
    return [text for text in in_turn if text is not None][:count]


def _prompt(text: str) -> str:
    return f"Text: {' '.join(text.split())}\nLabel:"


def _words(label: str) -> str:
    return label.replace("_", " ")
