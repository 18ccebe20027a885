"""Exact annotations of the closed world, found by the text of a document.

Shards hold no document ids, and prepare may have read the world beside other sources; the text itself is the key.
Memory holds sixteen bytes per document; spans are read from ``documents.jsonl`` when they are asked for.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from components.core.errors import ArtifactError, InputError
from components.labelling.annotators.base import Annotation, Annotator, as_words

RULE = "exact"
_NAMES = (".name", ".surname")  # relations by which a document names its subject: facts, but not values
_WORD = re.compile(r"\S+")
_KEY = np.dtype([("digest", "<u8"), ("offset", "<i8")])


class WorldAnnotator:
    """Labels the characters that the generator recorded as factual.

    Documents that tell of no closed world go to ``others``; without one they raise ``InputError``.
    """

    def __init__(self, documents: Path, others: Annotator | None = None) -> None:
        self._path = documents
        self._others = others
        self._file: IO[bytes] = documents.open("rb")
        self._keys = self._read_keys()

    def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        found = [self.exact(text) for text in texts]
        strangers = [index for index, annotation in enumerate(found) if annotation is None]
        if strangers:
            if self._others is None:
                raise InputError(
                    f"a document is none of the closed world's: {texts[strangers[0]][:60]!r}. label.annotator=world "
                    "knows exact facts of generated documents only; with label.annotator=auto the others are "
                    "annotated by label.pipeline, or by capitals and digits"
                )
            for index, annotation in zip(strangers, self._others.annotate([texts[i] for i in strangers]), strict=True):
                found[index] = annotation
        return [annotation for annotation in found if annotation is not None]

    def exact(self, text: str) -> Annotation | None:
        """What is known of ``text``; ``None`` if it is no document of the closed world."""
        digest = _digest(text)
        place = int(np.searchsorted(self._keys["digest"], digest))
        while place < len(self._keys) and self._keys["digest"][place] == digest:
            row = self._row(int(self._keys["offset"][place]))
            if row["text"] == text:
                spans = [span for span in row["facts"] if span[0] < span[1]]
                values = [span for span in spans if not span[2].endswith(_NAMES)]
                return Annotation(_words(text, spans), "world", _words(text, values))
            place += 1
        return None

    def _row(self, offset: int) -> dict[str, Any]:
        self._file.seek(offset)
        row: dict[str, Any] = json.loads(self._file.readline())
        return row

    def _read_keys(self) -> np.ndarray[Any, np.dtype[np.void]]:
        keys = []
        offset = 0
        for number, line in enumerate(self._file, start=1):
            try:
                keys.append((_digest(json.loads(line)["text"]), offset))
            except (ValueError, KeyError) as error:
                raise ArtifactError(
                    f"{self._path}, line {number}, is no document of a closed world: {error}"
                ) from error
            offset += len(line)
        sorted_keys: np.ndarray[Any, np.dtype[np.void]] = np.sort(np.array(keys, dtype=_KEY))
        return sorted_keys


def _words(text: str, spans: Sequence[Sequence[Any]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The words within ``spans``: a value of several words is several words."""
    return as_words(
        [(start + m.start(), start + m.end()) for start, end, _ in spans for m in _WORD.finditer(text[start:end])]
    )


def _digest(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
