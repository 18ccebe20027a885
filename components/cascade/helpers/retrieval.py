"""A helper that looks the continuation up in the training corpus: BM25 over passages, then the best matching place.

The passages that share rare words with the beginning of the text (whom it is about) and with its last words are found
by BM25 (the library bm25s). In them, the place is sought whose words before it agree longest with the last words of the
text; what follows there is the answer. It knows nothing to say where fewer than two words agree, or where no passage
has the name that the text begins with: sentences about others are found just as well, and would be wrong.

    index.json      what follows, in numbers, and which corpus it was made from
    passages.bin    UTF-8 text of all passages, one after another
    passages.npy    int64 [passages + 1]: where each begins in passages.bin
    bm25/           the index as bm25s writes it: .npy and .json, no pickle; read through memory maps
"""

import logging
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import bm25s
import numpy as np
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, ValidationError

from components.cascade.helpers.base import Call, HelperError, Reply
from components.cascade.reply_unit import first_tokens, first_unit
from components.core.atomic import write_text
from components.core.errors import ArtifactError
from components.data.prepared import PreparedData
from components.data.split import TRAIN
from components.data.tokenizer import TextTokenizer

INDEX = "index.json"

_PASSAGE_WORDS = 120
_OVERLAP_WORDS = 24  # a place near a passage's end has the words before it in the next one too
_TITLE_WORDS = 8  # of the document's beginning, kept with each of its passages: pronouns name nobody
_OPENING_WORDS = 25  # of the text, among which its subject is named
_QUERY_WORDS = 24
_RETRIEVED = 16
_LEAST_WORDS = 2
_LEAST_WITHOUT_NAME = 4
_MOST_WORDS = 16  # compared before a place
_COMMON = 0.25  # a word in more than this share of the passages is no name, capital or not
_ANSWER_CHARACTERS = 400
_PROGRESS_DOCUMENTS = 10_000
_SHUFFLE_SEED = 0

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")

logger = logging.getLogger(__name__)


class IndexRecord(BaseModel):
    """Contents of ``index.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int
    passages: int
    words: int
    """Different words."""
    corpus: str
    """What identifies the corpus: whoever opens the index for another one is refused."""


class _Passage(NamedTuple):
    title: str
    text: str


class _Word(NamedTuple):
    text: str
    """In lower case."""
    start: int
    end: int


def documents_of(prepared: PreparedData, most_bytes: int = 100_000_000) -> Iterator[str]:
    """Training documents of ``prepared``, decoded from its shards.

    All of them, or if they hold more than ``most_bytes`` of text, as many as do by a fixed shuffle (and at least one).
    """
    split = prepared.shards().splits.get(TRAIN)
    if split is None:
        return
    numbers: Sequence[int] = range(split.n_documents)
    if split.n_bytes > most_bytes:
        order = np.random.default_rng(_SHUFFLE_SEED).permutation(split.n_documents)
        within = int(np.searchsorted(np.cumsum(split.documents[order, 2]), most_bytes, side="right"))
        numbers = sorted(order[: max(1, within)].tolist())
        logger.warning(
            "the retrieval index holds %d of %d training documents: cascade.helper.corpus_megabytes allows no more",
            len(numbers),
            split.n_documents,
        )
    yield from prepared.texts(TRAIN, numbers)


def build_index(documents: Iterable[str], folder: Path, corpus: str = "") -> IndexRecord:
    """Index ``documents`` into ``folder``, replacing what is there; raises ``ArtifactError`` if they have no words.

    Memory holds the word ids of all passages (4 bytes a word) and, while bm25s weighs them, about 20 bytes a word.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vocabulary: dict[str, int] = {}
    ids: list[list[int]] = []
    starts = [0]
    count = 0
    with (folder / "passages.bin").open("wb") as file:
        for count, document in enumerate(documents, 1):
            title = " ".join(_WORD.findall(document[: _TITLE_WORDS * 40])[:_TITLE_WORDS])
            for passage in _passages(document):
                kept = f"{title}\n{passage}"
                ids.append([vocabulary.setdefault(word.lower(), len(vocabulary)) for word in _WORD.findall(kept)])
                starts.append(starts[-1] + file.write(kept.encode("utf-8")))
            if count % _PROGRESS_DOCUMENTS == 0:
                logger.info("%d documents read for the retrieval index", count)
    if not ids:
        raise ArtifactError("the corpus has no words to retrieve: give training documents, or take another helper.kind")
    np.save(folder / "passages.npy", np.array(starts, dtype=np.int64))
    retriever = bm25s.BM25()
    retriever.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    retriever.save(folder / "bm25", show_progress=False)
    record = IndexRecord(documents=count, passages=len(ids), words=len(vocabulary), corpus=corpus)
    write_text(folder / INDEX, record.model_dump_json(indent=2) + "\n")  # last: without it the index is unfinished
    return record


class RetrievalHelper:
    """Answers from an index that ``build_index`` made. Thread-safe: it only reads."""

    def __init__(self, folder: Path, tokenizer: TextTokenizer | None = None) -> None:
        """Open the index in ``folder``; raises ``ArtifactError`` if it is missing, unfinished or damaged.

        ``tokenizer``: what a token is, for the unit ``token``; without one, a word.
        """
        self._tokenizer = tokenizer
        self.record = read_record(folder)
        try:
            self._bm25: Any = bm25s.BM25.load(folder / "bm25", mmap=True, show_progress=False)
            self._starts: Int[np.ndarray, " passages_plus_one"] = np.load(folder / "passages.npy", mmap_mode="r")
            self._text = np.memmap(folder / "passages.bin", dtype=np.uint8, mode="r")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"the retrieval index in {folder} is damaged ({error}); build it again") from error
        if len(self._starts) != self.record.passages + 1 or int(self._starts[-1]) != len(self._text):
            raise ArtifactError(f"the retrieval index in {folder} is damaged: passages are missing; build it again")

    @property
    def name(self) -> str:
        return "retrieval"

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """What follows the best matching place of the corpus, one unit of it."""
        return [self._answer(call) for call in calls]

    def forget(self, session: str) -> None:
        """Nothing is kept for a request."""

    def check(self) -> None:
        """Opened is checked."""

    def close(self) -> None:
        """The memory maps go with the object."""

    def _answer(self, call: Call) -> Reply:
        began = time.perf_counter()
        following = self._following(call.text)
        text = self._cut(following, call) if following else ""
        return Reply(text, 0, time.perf_counter() - began)

    def _cut(self, following: str, call: Call) -> str:
        if call.unit != "token" or self._tokenizer is None:
            return first_unit(following, "word" if call.unit == "token" else call.unit)[0]
        return first_tokens(following, 1, self._tokenizer)

    def _following(self, text: str) -> str:
        """What stands in the corpus behind the place that agrees best with the end of ``text``; empty if none does."""
        words = _words(text[-_MOST_WORDS * 40 :])[-_MOST_WORDS:]
        if not words:
            return ""
        ending = text[-_MOST_WORDS * 40 :]
        names = self._names(text)
        least = _LEAST_WORDS if names else _LEAST_WITHOUT_NAME
        best, following = least - 1, ""
        for passage in self._retrieved([*(name for run in names for name in run), *(word.text for word in words)]):
            present = {word.text for word in _words(f"{passage.title} {passage.text}")}
            if names and not any(present.issuperset(run) for run in names):
                continue
            for agreeing, start in _places(passage.text, words, ending):
                if agreeing > best:  # the first found of equals: the passage that BM25 ranks higher
                    best, following = agreeing, passage.text[start : start + _ANSWER_CHARACTERS]
        return following

    def _names(self, text: str) -> list[tuple[str, ...]]:
        """The first two names in ``text``, in lower case: runs of words with a capital that are not common."""
        runs: list[tuple[str, ...]] = []
        run: list[str] = []
        for match in islice(_WORD.finditer(text), _OPENING_WORDS):
            word = match[0].removesuffix("'s").removesuffix("’s")
            if word[0].isupper() and self._share(word.lower()) <= _COMMON:
                run.append(word.lower())
                continue
            if run:
                runs.append(tuple(run))
            run = []
        return ([*runs, tuple(run)] if run else runs)[:2]

    def _share(self, word: str) -> float:
        """Share of the passages that hold ``word``."""
        id = self._bm25.vocab_dict.get(word)
        if id is None:
            return 0.0
        starts = self._bm25.scores["indptr"]
        return float(starts[id + 1] - starts[id]) / self.record.passages

    def _retrieved(self, query: list[str]) -> list[_Passage]:
        """Passages that have most of ``query``, best first."""
        vocabulary = self._bm25.vocab_dict
        ids = list(dict.fromkeys(vocabulary[word] for word in query if word in vocabulary))
        if not ids:
            return []
        scores = self._bm25.get_scores_from_ids(ids)
        most = min(_RETRIEVED, len(scores))
        top = np.argpartition(scores, len(scores) - most)[len(scores) - most :]
        best_first = top[np.argsort(-scores[top], kind="stable")]
        return [self._passage(int(number)) for number in best_first if scores[number] > 0]

    def _passage(self, number: int) -> _Passage:
        start, end = (int(place) for place in self._starts[number : number + 2])
        title, _, text = bytes(self._text[start:end]).decode("utf-8", "replace").partition("\n")
        return _Passage(title, text)


def read_record(folder: Path) -> IndexRecord:
    """What the index in ``folder`` says of itself; raises ``ArtifactError`` if there is none, or it is unfinished."""
    path = folder / INDEX
    try:
        return IndexRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} holds no finished retrieval index (no {INDEX}); build one with "
            "components.cascade.helpers.retrieval.build_index, or give the folder of a prepare artifact"
        ) from error
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{path} cannot be read as a retrieval index: {error}; build it again") from error


def _passages(document: str) -> Iterator[str]:
    """``document`` in pieces of ``_PASSAGE_WORDS`` words that overlap."""
    words = [match.span() for match in _WORD.finditer(document)]
    for first in range(0, len(words), _PASSAGE_WORDS - _OVERLAP_WORDS):
        last = first + _PASSAGE_WORDS
        yield document[words[first][0] : words[last][0] if last < len(words) else len(document)]
        if last >= len(words):
            return


def _words(text: str) -> list[_Word]:
    return [_Word(match[0].lower(), *match.span()) for match in _WORD.finditer(text)]


def _places(passage: str, words: list[_Word], text: str) -> Iterator[tuple[int, int]]:
    """Places in ``passage`` that continue ``text``, which ends with ``words``: words that agree before it, and where.

    The last word may be complete or only begun: "Brack" is continued by "water".
    """
    there = _words(passage)
    gap = text[words[-1].end :]
    before = [word.text for word in words]
    begun = text[words[-1].start :] if not gap else ""
    for place, word in enumerate(there):
        if word.text == before[-1] and passage.startswith(gap, word.end) and word.end + len(gap) < len(passage):
            yield 1 + _agreeing(there, place, before), word.end + len(gap)
        elif begun and passage.startswith(begun, word.start) and word.end - word.start > len(begun):
            yield _agreeing(there, place, before), word.start + len(begun)


def _agreeing(there: list[_Word], place: int, before: list[str]) -> int:
    """Words in front of ``place`` that equal those in front of the last of ``before``."""
    count = 0
    while count < min(place, len(before) - 1) and there[place - 1 - count].text == before[-2 - count]:
        count += 1
    return count
