"""A corpus as passages that can be searched, kept in a folder.

index.json      what follows, in numbers, and which corpus it was made from
passages.bin    UTF-8 text of all passages, one after another
passages.npy    int64 [passages + 1]: where each begins in passages.bin
bm25/           the index as bm25s writes it: .npy and .json, no pickle; read through memory maps
"""

import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.atomic import write_text
from components.core.errors import ArtifactError
from components.retrieval.bm25 import Bm25
from components.retrieval.passages import WORD, passages

INDEX = "index.json"

_PASSAGE_WORDS = 120
_OVERLAP_WORDS = 24  # a place near a passage's end has the words before it in the next one too
_TITLE_WORDS = 8  # of the document's beginning, kept with each of its passages: pronouns carry no name
_PROGRESS_DOCUMENTS = 10_000

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


class Passage(NamedTuple):
    title: str
    """The beginning of its document."""
    text: str

    @property
    def begins_document(self) -> bool:
        return title_of(self.text) == self.title


class PassageIndex:
    """What ``build_index`` made. Thread-safe: it only reads."""

    def __init__(self, folder: Path) -> None:
        """Open the index in ``folder``; raises ``ArtifactError`` if it is missing, unfinished or damaged."""
        self.record = read_record(folder)
        try:
            self._bm25 = Bm25.load(folder / "bm25", self.record.passages)
            self._starts: Int[np.ndarray, " passages_plus_one"] = np.load(folder / "passages.npy", mmap_mode="r")
            self._text = np.memmap(folder / "passages.bin", dtype=np.uint8, mode="r")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"the retrieval index in {folder} is damaged ({error}); build it again") from error
        if len(self._starts) != self.record.passages + 1 or int(self._starts[-1]) != len(self._text):
            raise ArtifactError(f"the retrieval index in {folder} is damaged: passages are missing; build it again")

    def share(self, word: str) -> float:
        """Share of the passages that hold ``word`` (in lower case)."""
        return self._bm25.share(word)

    def best(self, query: Iterable[str], count: int) -> list[Passage]:
        """At most ``count`` passages that have most of ``query`` (words in lower case), best first."""
        return [self._passage(number) for number in self._bm25.best(query, count)]

    def _passage(self, number: int) -> Passage:
        start, end = (int(place) for place in self._starts[number : number + 2])
        title, _, text = bytes(self._text[start:end]).decode("utf-8", "replace").partition("\n")
        return Passage(title, text)


def read_record(folder: Path) -> IndexRecord:
    """What the index in ``folder`` says of itself; raises ``ArtifactError`` if there is none, or it is unfinished."""
    path = folder / INDEX
    try:
        return IndexRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} holds no finished retrieval index (no {INDEX}); build one with "
            "components.retrieval.index.build_index, or give the folder of a prepare artifact"
        ) from error
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{path} cannot be read as a retrieval index: {error}; build it again") from error


def build_index(documents: Iterable[str], folder: Path, corpus: str = "") -> IndexRecord:
    """Index ``documents`` into ``folder``, replacing what is there; raises ``ArtifactError`` if they have no words."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    starts = [0]
    read = 0

    def words() -> Iterator[list[str]]:
        """Of every passage, as it is written."""
        nonlocal read
        for read, document in enumerate(documents, 1):
            for passage in _titled_passages(document):
                starts.append(starts[-1] + file.write(passage.encode("utf-8")))
                yield [word.lower() for word in WORD.findall(passage)]
            if read % _PROGRESS_DOCUMENTS == 0:
                logger.info("%d documents read for the retrieval index", read)

    with (folder / "passages.bin").open("wb") as file:
        bm25 = Bm25.over(words())
    if not bm25.words:
        raise ArtifactError("the corpus has no words to retrieve: give training documents, or take another helper.kind")
    np.save(folder / "passages.npy", np.array(starts, dtype=np.int64))
    bm25.save(folder / "bm25")
    record = IndexRecord(documents=read, passages=len(starts) - 1, words=bm25.words, corpus=corpus)
    write_text(folder / INDEX, record.model_dump_json(indent=2) + "\n")  # last: without it the index is unfinished
    return record


def _titled_passages(document: str) -> Iterator[str]:
    """A title and a line break before each."""
    title = title_of(document)
    for passage in passages(document, _PASSAGE_WORDS, overlap_words=_OVERLAP_WORDS):
        yield f"{title}\n{passage}"


def title_of(document: str) -> str:
    """The first words of ``document``."""
    return " ".join(WORD.findall(document[: _TITLE_WORDS * 40])[:_TITLE_WORDS])
