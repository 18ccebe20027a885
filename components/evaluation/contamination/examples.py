"""Which examples of the tasks are in the training text, by shared runs of words and by near-duplicate paragraphs."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from components.data.prepared import PreparedData
from components.evaluation.contamination.config import ContaminationConfig
from components.evaluation.contamination.near_duplicates import NearDuplicateIndex
from components.evaluation.contamination.shared_runs import RunIndex
from components.evaluation.contamination.words import HashedText, Hashes, WordHashes, blocks, words
from components.evaluation.score_table import Score

TRAIN_SPLIT = "train"
METRIC = "contaminated"

Example = tuple[str, str]
"""Id and text: everything of the example that a model could have seen, question, choices and answers."""


@dataclass
class Contamination:
    """What the training text has of one example."""

    id: str
    comparable: bool
    """Whether the example is long enough to tell."""
    run: str = ""
    """The first run of words that both have."""
    run_document: int | None = None
    """The training document that holds it."""
    similarity: float = 0.0
    """Resemblance of the example's paragraph that is most like one of the training text; 0 below the threshold."""
    similar_document: int | None = None

    @property
    def contaminated(self) -> bool:
        return self.run_document is not None or self.similar_document is not None

    @property
    def words(self) -> str:
        """The evidence, as JSON for the column ``detail``; empty where there is none."""
        if not self.comparable:
            return "too short to tell"
        evidence: dict[str, object] = {}
        if self.run_document is not None:
            evidence |= {"run": self.run, "run_document": self.run_document}
        if self.similar_document is not None:
            evidence |= {"similarity": round(self.similarity, 3), "similar_document": self.similar_document}
        return json.dumps(evidence, ensure_ascii=False) if evidence else ""


def contaminated_examples(
    prepared: PreparedData,
    tasks: Mapping[str, Iterable[Example]],
    cfg: ContaminationConfig,
    report: Callable[[float], None] = lambda fraction: None,
) -> dict[str, list[Contamination]]:
    """Compare the examples of ``tasks`` with the training split of ``prepared``, in one pass over its text.

    Memory is bounded by the examples. Raises ``ArtifactError`` if the shards or the tokenizer are damaged.
    """
    split = prepared.shards().splits.get(TRAIN_SPLIT)
    count = split.n_documents if split is not None else 0
    texts = prepared.texts(TRAIN_SPLIT, range(count)) if count else iter(())
    return compared(texts, tasks, cfg, lambda done: report(done / count))


def compared(
    training: Iterator[str],
    tasks: Mapping[str, Iterable[Example]],
    cfg: ContaminationConfig,
    report: Callable[[int], None] = lambda documents: None,
) -> dict[str, list[Contamination]]:
    """The same for any training text. ``report`` is called with the number of documents read."""
    listed = {task: list(examples) for task, examples in tasks.items()}
    hashes = WordHashes()
    examples = [example for each in listed.values() for example in each]
    search = _Search(examples, hashes, cfg)
    done = 0
    for block in blocks(training, hashes):
        search.add(block, done)
        done += len(block)
        report(done)
    found = iter(search.found)
    return {task: [next(found) for _ in each] for task, each in listed.items()}


def contamination_scores(model: str, task: str, found: Sequence[Contamination]) -> list[Score]:
    """The rows beside a task's scores: 1 for a contaminated example; weight 0 for one that is too short to tell."""
    return [
        Score(
            model=model,
            task=task,
            document=each.id,
            metric=METRIC,
            score=float(each.contaminated),
            weight=float(each.comparable),
            detail=each.words,
        )
        for each in found
    ]


class _Search:
    """The examples, and what has been found of them."""

    def __init__(self, examples: Sequence[Example], hashes: WordHashes, cfg: ContaminationConfig) -> None:
        texts = [HashedText.of(text, hashes) for _, text in examples]
        own = [text.words for text in texts]
        self.found = [
            Contamination(id, len(each) >= cfg.shortest_words) for (id, _), each in zip(examples, own, strict=True)
        ]
        self._runs = RunIndex(own, cfg.run_words, cfg.shortest_words)
        self._least = cfg.paragraph_words
        parts = list(self._paragraphs(texts))
        self._owners = [number for number, _ in parts]
        self._duplicates = NearDuplicateIndex([part for _, part in parts], cfg.shingle_words, cfg.similarity)

    def add(self, block: Sequence[HashedText], first: int) -> None:
        """Compare a block of training documents, the first of which has the number ``first``."""
        for shared in self._runs.shared([text.words for text in block]):
            each = self.found[shared.example]
            if each.run_document is None:
                each.run_document = first + shared.text
                each.run = " ".join(words(block[shared.text].text)[shared.start : shared.start + shared.length])
        if self._owners:
            self._compare_paragraphs(list(self._paragraphs(block)), first)

    def _compare_paragraphs(self, parts: Sequence[tuple[int, Hashes]], first: int) -> None:
        for known, place, similarity in self._duplicates.duplicates([part for _, part in parts]):
            each = self.found[self._owners[known]]
            if similarity > each.similarity:
                each.similarity, each.similar_document = similarity, first + parts[place][0]

    def _paragraphs(self, texts: Sequence[HashedText]) -> Iterator[tuple[int, Hashes]]:
        """The lines that are long enough to be compared, each with the number of its text."""
        for number, text in enumerate(texts):
            yield from ((number, line) for line in text.lines if len(line) >= self._least)
