"""Fact bits: one bit per token of the shards, read through memory maps.

    index.json       who annotated, how, and which shards and tokenizer the bits belong to
    train.bits ...   bit i belongs to token i of the split's row (least significant bit first); boundaries are 0

A bit belongs to its token, not to the position that predicts it: for the logits at position t ask for bit t + 1.
``index.json`` is written last: bits without it are leftovers of an interrupted run.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.atomic import write_text
from components.core.errors import ArtifactError
from components.data.columns import BIT, ColumnFile, ColumnFileWriter
from components.data.shards import ShardSet, Split, shards_digest

INDEX = "index.json"

Bits = Bool[np.ndarray, " tokens"]


class SplitBits(BaseModel):
    """Size of one split in ``index.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int
    factual: int


class LabelIndex(BaseModel):
    """Contents of ``index.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    annotator: str
    """``world``, ``spacy``, ``capitals``, ``calculations``, or ``control`` for rule sets that need no annotator."""
    rules: str
    """The rule set: that of a parse, ``exact`` for the closed world, or the documented rule of the annotator."""
    subwords: str
    """Which subwords of a factual word carry the bit."""
    skip_copied: bool
    """Whether words that the document had stated before were left out."""
    spacy: str
    """Version of spaCy; empty where it was not used."""
    pipeline: str
    """Name and version of the pipeline; empty where none was used."""
    pipeline_digest: str
    """SHA-256 over the pipeline's files; empty where none was used."""
    documents_by_annotator: dict[str, int]
    """Who annotated how many documents: in a mixed corpus, only part of them tell of the closed world."""
    tokenizer: str
    """Digest of the tokenizer whose tokens the bits mark."""
    shards: str
    """Digest of the sizes of all documents of the shards."""
    splits: dict[str, SplitBits]
    """Tokens, boundaries included, and how many of them are factual."""


class BitsWriter:
    """Appends bits of one split to a file; memory stays at what is given."""

    def __init__(self, folder: Path, split: str) -> None:
        self.factual = 0
        self._file = ColumnFileWriter(_bits_path(folder, split), BIT)

    def append(self, bits: Bits) -> None:
        """Add the bits of the next tokens; raises ``DiskFullError`` if they cannot be written."""
        self.factual += int(np.count_nonzero(bits))
        self._file.append(bits)

    def __enter__(self) -> "BitsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    @property
    def record(self) -> SplitBits:
        return SplitBits(tokens=self._file.tokens, factual=self.factual)


def write_index(folder: Path, index: LabelIndex) -> None:
    """Finish a folder of bits."""
    write_text(folder / INDEX, index.model_dump_json(indent=2) + "\n")


@dataclass(frozen=True)
class FactBits:
    """The bits of one corpus, aligned with its shards.

    Those of an artifact are opened by ``Labels.facts`` and ``Labels.judged``.
    """

    folder: Path
    index: LabelIndex
    fill: bool = False
    """No token, no fact."""

    @classmethod
    def open(cls, folder: Path, shards: ShardSet, tokenizer_digest: str) -> "FactBits":
        """Read the index and check that the bits are whole and belong to ``shards`` and to the tokenizer.

        Raises ``ArtifactError`` if a split has no bits, bits are damaged, or they are of other tokens.
        """
        path = folder / INDEX
        if not path.is_file():
            raise ArtifactError(f"{folder} holds no finished labels: it has no {INDEX}. Run `lacewing label`.")
        try:
            index = LabelIndex.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactError(f"{path} cannot be read as an index of labels: {error}") from error
        if index.tokenizer != tokenizer_digest:
            raise ArtifactError(
                f"the labels in {folder} were made for another tokenizer ({index.tokenizer[:12]}, this one is "
                f"{tokenizer_digest[:12]}): bit i belongs to token i of that one. Run `lacewing label` on this data."
            )
        for name, split in shards.splits.items():
            if fault := _fault(folder, index, name, split):
                raise ArtifactError(f"the labels in {folder} do not fit the shards: {fault}. Run `lacewing label`.")
        if index.shards != (found := shards_digest(shards)):
            raise ArtifactError(
                f"the labels in {folder} were made for other shards ({index.shards[:12]}, these are {found[:12]}): "
                "their documents have other sizes. Run `lacewing label` on this data."
            )
        return cls(folder, index)

    def slice(self, split: str, start: int, stop: int) -> Bits:
        """Bits of tokens ``[start, stop)`` of the split's row."""
        self._tokens(split)
        return self._files[split].slice(start, stop)

    def share(self, split: str) -> float:
        """Part of the split's tokens, boundaries included, that are factual; 0 for a split without tokens."""
        return self.index.splits[split].factual / max(1, self._tokens(split))

    def _tokens(self, split: str) -> int:
        if split not in self.index.splits:
            raise ArtifactError(
                f"the labels in {self.folder} have no split {split!r}, only {_named(self.index.splits)}"
            )
        return self.index.splits[split].tokens

    @cached_property
    def _files(self) -> dict[str, ColumnFile]:
        return {name: _file(self.folder, name, record.tokens) for name, record in self.index.splits.items()}


def _fault(folder: Path, index: LabelIndex, name: str, split: Split) -> str | None:
    if name not in index.splits:
        return f"split {name!r} has none, only {_named(index.splits)} have"
    if (tokens := index.splits[name].tokens) != split.n_tokens:
        return f"split {name!r} has {split.n_tokens} tokens and {tokens} bits"
    return _file(folder, name, tokens).fault()


def _file(folder: Path, split: str, tokens: int) -> ColumnFile:
    return ColumnFile(_bits_path(folder, split), BIT, tokens)


def _bits_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.bits"


def _named(splits: Iterable[str]) -> str:
    return ", ".join(map(repr, splits)) or "none"
