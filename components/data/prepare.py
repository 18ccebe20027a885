"""The prepare stage: sources to documents, tokenizer and token shards.

Two passes over the documents, each streaming. The first assigns splits, counts, and draws the sample from which the
tokenizer is learned (training documents only); the second encodes and writes. Memory holds the sample, one batch of
documents, the encoder's dictionary, and eight bytes for each document. An interrupted run starts again from the
beginning, downloads excepted.
"""

import shutil
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.core.errors import InputError
from components.core.run import Run
from components.data.config import DataConfig
from components.data.encoder import Encoder
from components.data.gather import discard, forget_downloads, gather
from components.data.model_tokenizer import ModelWithTokenizer
from components.data.prepared import PreparedData
from components.data.progress import counted, reading
from components.data.reading import Document, Reader
from components.data.sample import Sample
from components.data.shards import ShardSet, ShardWriter, Split
from components.data.sources import SourceFile
from components.data.split import SPLITS, TRAIN, position, split_of
from components.data.tokenizer import TextTokenizer, save_tokenizer, train_tokenizer

_BATCH_BYTES = 2_000_000
_MEGABYTE = 1_000_000

# Where each part of the work ends, as a fraction of the whole.
_GATHERED, _SURVEYED, _LEARNT, _ENCODED = 0.1, 0.25, 0.5, 1.0


@dataclass
class Survey:
    """Results of the first pass."""

    sample: Sample
    documents: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    positions: "array[float]" = field(default_factory=lambda: array("d"))
    """Where each document stands; equal texts stand at the same place."""

    @property
    def duplicates(self) -> int:
        """Documents whose text has occurred before."""
        return len(self.positions) - len(np.unique(np.asarray(self.positions)))


def stage(run: Run, config: DataConfig, *, base: ModelWithTokenizer | None = None) -> PreparedData:
    """Read ``config.sources`` and leave sources, tokenizer and shards in the run's folder.

    ``base``: a model whose tokenizer is taken, where none is to be learnt.

    Raises ``InputError`` for unusable sources, ``ServiceError`` for unreachable ones, ``DiskFullError``.
    """
    raw, tokenizer_folder, shards_folder = (
        run.folder / name for name in (PreparedData.RAW, PreparedData.TOKENIZER, PreparedData.SHARDS)
    )
    for leftover in (tokenizer_folder, shards_folder):
        shutil.rmtree(leftover, ignore_errors=True)

    files = gather(config, raw, lambda fraction, message: run.report(fraction * _GATHERED, message))
    sources = _sources(files)
    survey = _survey(run, config, files)
    _check_splits(survey, config)

    started = time.perf_counter()
    if base is None:
        _learn_tokenizer(run, config, survey, tokenizer_folder)
    else:
        base.copy_tokenizer(tokenizer_folder)
    tokenizer = TextTokenizer.load(tokenizer_folder)
    tokenizer_seconds = time.perf_counter() - started
    run.report(
        _LEARNT, f"{tokenizer.vocab_size} tokens {'learnt' if base is None else 'taken'} in {tokenizer_seconds:.1f} s"
    )

    started = time.perf_counter()
    skipped = _encode(run, config, files, tokenizer, shards_folder)
    encode_seconds = time.perf_counter() - started

    forget_downloads(raw)
    if not config.keep_sources:
        discard(raw)
    splits = ShardSet.open(shards_folder).splits
    duplicates = survey.duplicates
    metrics = _metrics(splits, encode_seconds, tokenizer_seconds, skipped) | {"duplicates": duplicates}
    run.log(metrics, None)
    run.report(_ENCODED, f"wrote {metrics['tokens']:,} tokens of {metrics['documents']:,} documents")
    details = {
        "vocab_size": tokenizer.vocab_size,
        "splits": _sizes(splits),
        "sources": sources,
        "skipped": dict(skipped),
    }
    train = splits[TRAIN]
    rows = [("training text", f"{train.n_documents:,} documents, {train.n_tokens:,} tokens")]
    if duplicates:
        rows.append(("duplicates", f"{duplicates:,} of {metrics['documents']:,} documents repeat the text of another"))
    return run.seal(metrics, details, rows, view=PreparedData)


def _learn_tokenizer(run: Run, cfg: DataConfig, survey: Survey, folder: Path) -> None:
    run.report(_SURVEYED, f"learning {cfg.vocab_size} tokens from {survey.documents[TRAIN]} documents")
    texts = counted(run, survey.sample.texts(), _SURVEYED, (_SURVEYED + _LEARNT) / 2)
    save_tokenizer(train_tokenizer(texts, cfg.vocab_size), folder)


def _metrics(
    splits: Mapping[str, Split], encode_seconds: float, tokenizer_seconds: float, skipped: Counter[str]
) -> dict[str, float]:
    documents = sum(split.n_documents for split in splits.values())
    tokens = sum(split.n_tokens for split in splits.values())
    n_bytes = sum(split.n_bytes for split in splits.values())
    return {
        "documents": documents,
        "tokens": tokens,
        "bytes": n_bytes,
        "bytes_per_token": n_bytes / (tokens - documents),  # boundaries stand for no text
        "megabytes_per_second": n_bytes / _MEGABYTE / encode_seconds,
        "tokenizer_seconds": tokenizer_seconds,
        "skipped": skipped.total(),
    }


def _sizes(splits: Mapping[str, Split]) -> dict[str, dict[str, int]]:
    return {
        name: {"documents": split.n_documents, "tokens": split.n_tokens, "bytes": split.n_bytes}
        for name, split in splits.items()
    }


def _survey(run: Run, cfg: DataConfig, files: list[SourceFile]) -> Survey:
    survey = Survey(Sample(int(cfg.tokenizer_sample_mb * _MEGABYTE)))
    with reading(run, "surveying", files, _GATHERED, _SURVEYED) as progress:
        for document in Reader(cfg).documents(files, progress.read):
            text = document.text.encode()
            place = position(text)
            split = split_of(place, cfg.validation_fraction, cfg.test_fraction)
            survey.positions.append(place)
            survey.documents[split] += 1
            survey.bytes[split] += len(text)
            if split == TRAIN:
                survey.sample.offer(place, text)
    return survey


def _check_splits(survey: Survey, cfg: DataConfig) -> None:
    total = survey.documents.total()
    if not total:
        raise InputError(f"no documents were found in {', '.join(cfg.sources)}: every one was empty or left out")
    empty = [split for split in SPLITS if not survey.documents[split]]
    if empty:
        raise InputError(
            f"a corpus of {total} document(s) is too small: by the hash of their text, with "
            f"validation_fraction={cfg.validation_fraction:g} and test_fraction={cfg.test_fraction:g}, none fell to "
            f"{' or '.join(empty)}. "
            "Add documents, raise the fractions, or, if text files hold several documents each, say where they end "
            "with data.document_separator (for example blank-line)"
        )


class _Encodable(NamedTuple):
    text: str
    n_bytes: int
    split: str


def _encode(run: Run, cfg: DataConfig, files: list[SourceFile], tokenizer: TextTokenizer, folder: Path) -> Counter[str]:
    reader, encoder = Reader(cfg), Encoder(tokenizer)
    with (
        reading(run, "encoding", files, _LEARNT, _ENCODED) as progress,
        ShardWriter(folder, tokenizer.vocab_size, tokenizer.end_of_text_id, cfg.shard_tokens) as shards,
    ):
        for batch in _batches(reader.documents(files, progress.read), cfg):
            encoded = encoder.encode([each.text for each in batch], progress.encoded)
            for ids, document in zip(encoded, batch, strict=True):
                shards.add(document.split, ids, document.n_bytes)
    return reader.skipped


def _batches(documents: Iterable[Document], cfg: DataConfig) -> Iterator[list[_Encodable]]:
    batch: list[_Encodable] = []
    room = _BATCH_BYTES
    for document in documents:
        text = document.text.encode()
        split = split_of(position(text), cfg.validation_fraction, cfg.test_fraction)
        batch.append(_Encodable(document.text, len(text), split))
        room -= len(text)
        if room <= 0:
            yield batch
            batch, room = [], _BATCH_BYTES
    if batch:
        yield batch


def _sources(files: list[SourceFile]) -> list[dict[str, str | int]]:
    return [{"source": file.origin, "bytes": file.path.stat().st_size} for file in files]
