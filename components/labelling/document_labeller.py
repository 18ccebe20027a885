"""Bits of documents, computed where the shards are read: a job is a range of documents, its result their packed bits.

Ranges go to processes in order, a few at a time, and come back in order: memory holds what is under way, however large
the corpus, and any number of processes gives the same bits.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from jaxtyping import Integer

from components.core.errors import ArtifactError, ServiceError
from components.data.shards import ShardSet
from components.data.tokenizer import TextTokenizer
from components.labelling.alignment import Subwords, factual_tokens
from components.labelling.annotators.base import Annotator
from components.labelling.annotators.choose import Choice
from components.labelling.annotators.copied import without_copied
from components.labelling.annotators.pipeline import PipelineRecord
from components.labelling.annotators.world import WorldAnnotator
from components.labelling.labels import Bits

_JOBS_PER_PROCESS = 2  # running or waiting: enough that no process is idle
# Bytes of text in a job: some seconds of work, so that starting a process pays and progress is seen.
_JOB_BYTES = {"spacy": 256_000}
_FAST_JOB_BYTES = 4_000_000


class Job(NamedTuple):
    """Documents ``first`` to ``last`` (excluded) of a split, next to each other."""

    split: str
    first: int
    last: int
    n_bytes: int


@dataclass
class LabelledJob:
    """The result of a job."""

    job: Job
    tokens: int
    factual: bytes
    """Packed bits of the tokens, boundaries included."""
    judged: bytes
    """The same for values alone; empty without a closed world."""
    seconds: float
    """Processor time."""
    documents: Counter[str] = field(default_factory=Counter)
    """By annotator."""
    languages: Counter[bool | None] = field(default_factory=Counter)
    """Documents in a language the annotator knows, in another, and those of which that cannot be told."""

    def bits(self) -> tuple[Bits, Bits | None]:
        """Factual and judged bits, unpacked."""
        return self._unpacked(self.factual), self._unpacked(self.judged) if self.judged else None

    def _unpacked(self, packed: bytes) -> Bits:
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=self.tokens, bitorder="little")
        return bits.view(bool)


@dataclass(frozen=True)
class DocumentLabeller:
    """Reads documents from the shards and labels their tokens. It is sent to processes as paths and settings."""

    shards_folder: Path
    tokenizer_folder: Path
    choice: Choice
    subwords: Subwords
    skip_copied: bool

    def label(self, job: Job) -> LabelledJob:
        """Annotate the documents of ``job``."""
        started = time.process_time()
        split = self.shards.splits[job.split]
        ids = [split.document(number) for number in range(job.first, job.last)]
        texts = [self.text(each, f"document {job.first + index} of {job.split}") for index, each in enumerate(ids)]
        factual: list[Bits] = []
        judged: list[Bits] = []
        labelled = LabelledJob(job, 0, b"", b"", 0.0)
        for text, each, annotation in zip(texts, ids, self._annotator.annotate(texts), strict=True):
            lengths = self.token_bytes[each]
            words = without_copied(text, annotation.words) if self.skip_copied else annotation.words
            factual += [factual_tokens(text, lengths, words, self.subwords), _BOUNDARY]
            if self._world is not None:
                exact = annotation if annotation.annotator == "world" else self._world.exact(text)
                values = exact.judged if exact else annotation.judged
                judged += [factual_tokens(text, lengths, values), _BOUNDARY]
            labelled.documents[annotation.annotator] += 1
            labelled.languages[annotation.familiar] += 1
        labelled.tokens = sum(map(len, factual))
        labelled.factual, labelled.judged = _packed(factual), _packed(judged)
        labelled.seconds = time.process_time() - started
        return labelled

    def text(self, ids: Integer[np.ndarray, " tokens"], place: str) -> str:
        """The very text that was encoded; raises ``ArtifactError`` if ``ids`` are not whole text."""
        try:
            return b"".join([self._tokenizer.token_bytes(id) for id in ids.tolist()]).decode()
        except UnicodeDecodeError as error:
            raise ArtifactError(
                f"{place} in {self.shards_folder} is no text under the tokenizer in {self.tokenizer_folder}: {error}. "
                "Shards and tokenizer do not belong together, or are damaged; run `lacewing prepare` again"
            ) from error

    def open(self) -> None:
        """Open everything now, so that what is missing is said before the work begins."""
        if (vocab_size := self._tokenizer.vocab_size) != self.shards.vocab_size:
            raise ArtifactError(
                f"the shards in {self.shards_folder} have a vocabulary of {self.shards.vocab_size}, the tokenizer in "
                f"{self.tokenizer_folder} has {vocab_size}: give the tokenizer of the same prepare artifact"
            )
        assert self._opened

    @cached_property
    def shards(self) -> ShardSet:
        return ShardSet.open(self.shards_folder)

    @cached_property
    def token_bytes(self) -> Integer[np.ndarray, " vocab"]:
        """Length of each token in bytes."""
        return np.array([len(self._tokenizer.token_bytes(id)) for id in range(self._tokenizer.vocab_size)])

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer.load(self.tokenizer_folder)

    @property
    def pipeline(self) -> PipelineRecord | None:
        """The spaCy pipeline that annotates, if one does."""
        return self._opened[1]

    @property
    def _annotator(self) -> Annotator:
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[Annotator, PipelineRecord | None]:
        return self.choice.open()

    @cached_property
    def _world(self) -> WorldAnnotator | None:
        if isinstance(self._annotator, WorldAnnotator):
            return self._annotator
        return WorldAnnotator(self.choice.documents) if self.choice.documents else None

    def __getstate__(self) -> dict[str, object]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


_BOUNDARY = np.zeros(1, dtype=bool)


def _packed(pieces: list[Bits]) -> bytes:
    return np.packbits(np.concatenate(pieces), bitorder="little").tobytes() if pieces else b""


def jobs(shards: ShardSet, annotator: str) -> Iterator[Job]:
    """All documents, split by split, in ranges of about equal work."""
    room = _JOB_BYTES.get(annotator, _FAST_JOB_BYTES)
    for name, split in shards.splits.items():
        first = n_bytes = 0
        for number in range(split.n_documents):
            n_bytes += int(split.documents[number, 2])
            if n_bytes >= room or number == split.n_documents - 1:
                yield Job(name, first, number + 1, n_bytes)
                first, n_bytes = number + 1, 0


def labelled_jobs(labeller: DocumentLabeller, work: Iterator[Job], processes: int) -> Iterator[LabelledJob]:
    """Results of ``work`` in order, computed by ``processes`` processes (one: this one)."""
    if processes == 1:
        yield from map(labeller.label, work)
        return
    # Spawned, not forked: this process may have threads, whose locks a fork would copy in any state.
    context = multiprocessing.get_context("spawn")
    under_way: deque[Future[LabelledJob]] = deque()
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(labeller,)) as pool:
        try:
            under_way.extend(pool.submit(_label, job) for job in islice(work, processes * _JOBS_PER_PROCESS))
            while under_way:
                labelled = under_way.popleft().result()
                under_way.extend(pool.submit(_label, job) for job in islice(work, 1))
                yield labelled
        except BrokenProcessPool as error:
            raise ServiceError(
                f"one of {processes} annotating processes ended without an error (often because memory ran out): "
                "set label.processes lower and run the same command again"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def useful_processes(work: Sequence[Job], annotator: str) -> int:
    """One per core, but no more than have a job's worth to do: starting one takes seconds."""
    n_bytes = sum(job.n_bytes for job in work)
    return max(1, min(_physical_cores(), n_bytes // _JOB_BYTES.get(annotator, _FAST_JOB_BYTES)))


def _physical_cores() -> int:
    """Cores that this process may use, counting two threads of one core once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


_marker: DocumentLabeller | None = None  # of this worker process


def _begin(labeller: DocumentLabeller) -> None:
    global _marker
    _marker = labeller
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends us in order
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    labeller.open()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # the parent was killed, so no one will receive the result


def _label(job: Job) -> LabelledJob:
    assert _marker is not None
    return _marker.label(job)
