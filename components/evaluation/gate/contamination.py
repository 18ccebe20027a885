"""Does the training text hold what the gate judges on? Then a model may know it by heart, and its figures say little.

A held-out document is contaminated if a training document is a near-duplicate of it: a resemblance of at least 0.7,
which is the runs of five words that both have, by all runs of both (Broder 1997). A copy in which one word of thirty
differs has 0.7. Text that merely comes from the same templates stays far below: in the closed world, half of the
held-out documents have less than 0.15 with the training document most like them, and 200 of them have 0.5 at most with
any of 12,000; 110 held-out biographies of Wikipedia have 0.15 at most with any of 3,000.
A shared run of 13 words, the usual measure for tasks, says nothing in the closed world:
eight of ten documents of the closed world share one. An exact copy never gets here, for ``prepare`` keeps equal texts
in one split. What this measure does not see is a held-out text that is an excerpt of a much longer one.

A question is contaminated if the training text holds it word for word. Its answer may stand there: questions ask for
facts of the corpus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from components.data.prepared import PreparedData
from components.evaluation.config import GateConfig
from components.evaluation.contamination.examples import TRAIN_SPLIT
from components.evaluation.contamination.near_duplicates import NearDuplicateIndex
from components.evaluation.contamination.shared_runs import RunIndex
from components.evaluation.contamination.words import WordHashes, blocks
from components.evaluation.gate.documents import Document
from components.evaluation.gate.evidence import Measure
from components.evaluation.heldout import chosen
from components.evaluation.questions import Question

SIMILARITY = 0.7
_RUN_WORDS = 5
_SHORTEST_QUESTION = 4  # words; shorter ones are found in any text


def contamination(
    prepared: PreparedData, documents: Sequence[Document], questions: Sequence[Question], cfg: GateConfig
) -> dict[str, Measure]:
    """The shares of ``documents`` and ``questions`` that the training split holds; empty where nothing is compared."""
    numbers = _compared(prepared, cfg.contamination_tokens)
    if not numbers:
        return {}
    hashes = WordHashes()
    search = _Search(
        NearDuplicateIndex([hashes.of(document.text) for document in documents], _RUN_WORDS, SIMILARITY),
        asked := [hashes.of(question.question) for question in questions],
    )
    done = 0
    for block in blocks(prepared.texts(TRAIN_SPLIT, numbers), hashes):
        search.add([text.words for text in block], numbers[done : done + len(block)])
        done += len(block)
    names = [document.name for document in documents]
    found = {"contaminated": _measure(names, search.documents, np.ones(len(names)))}
    if questions:
        long_enough = np.array([float(len(each) >= _SHORTEST_QUESTION) for each in asked])
        found["contaminated_questions"] = _measure([each.id for each in questions], search.questions, long_enough)
    return found


def _compared(prepared: PreparedData, max_tokens: int) -> list[int]:
    """Training documents by a fixed shuffle, up to ``max_tokens``."""
    split = prepared.shards().splits.get(TRAIN_SPLIT)
    if split is None or not split.n_documents or not max_tokens:
        return []
    numbers: list[int] = chosen(split.documents[:, 1], split.n_documents, max_tokens).tolist()
    return numbers


@dataclass
class _Search:
    """What has been found, by the number of the held-out document or question."""

    index: NearDuplicateIndex
    asked: Sequence[np.ndarray]
    documents: dict[int, str] = field(default_factory=dict)
    questions: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        longest = max(map(len, self.asked), default=1)
        self._runs = RunIndex(self.asked, longest, _SHORTEST_QUESTION)

    def add(self, texts: Sequence[np.ndarray], numbers: Sequence[int]) -> None:
        """Compare training documents that have these numbers."""
        for known, text, similarity in self.index.duplicates(texts):
            self.documents.setdefault(known, f"{similarity:.0%} the same as {TRAIN_SPLIT} {numbers[text]}")
        for shared in self._runs.shared(texts):
            self.questions.setdefault(shared.example, f"word for word in {TRAIN_SPLIT} {numbers[shared.text]}")


def _measure(names: Sequence[str], found: Mapping[int, str], weights: np.ndarray) -> Measure:
    contaminated = np.array([float(number in found) for number in range(len(names))])
    return Measure(tuple(names), contaminated, weights, {names[number]: why for number, why in sorted(found.items())})
