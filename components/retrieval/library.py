"""What the retrieval helper can look up: the text of the data, and a library that the model need never have seen.

Held-out documents are part of it. A helper is there for what the model has not learnt, and in service nobody knows
which texts those are. Measurements that ask what it knows *without* a document hide it (``Call.hidden``).
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from components.core.identity import digest_json
from components.data.config import DataConfig
from components.data.gather import gather
from components.data.prepared import PreparedData
from components.data.reading import Reader
from components.data.shards import shards_digest
from components.data.sources import fingerprint

_SHUFFLE_SEED = 0

logger = logging.getLogger(__name__)


def corpus_name(prepared: PreparedData, library: Sequence[str], megabytes: int) -> str:
    """What identifies the documents: an index of others is made again.

    Raises ``InputError`` for a source that cannot be read.
    """
    name = f"{shards_digest(prepared.shards())} {prepared.tokenizer_digest()} all splits up to {megabytes} MB"
    return f"{name} and {digest_json(fingerprint(DataConfig(sources=list(library))))}" if library else name


def documents_of(prepared: PreparedData, most_bytes: int = 100_000_000) -> Iterator[str]:
    """The documents of ``prepared``, decoded from its shards, split by split.

    All of them, or if a split holds more than ``most_bytes`` of text, as many as do by a fixed shuffle (at least one).
    """
    for name, split in prepared.shards().splits.items():
        numbers: Sequence[int] = range(split.n_documents)
        if split.n_bytes > most_bytes:
            order = np.random.default_rng(_SHUFFLE_SEED).permutation(split.n_documents)
            within = int(np.searchsorted(np.cumsum(split.documents[order, 2]), most_bytes, side="right"))
            numbers = sorted(order[: max(1, within)].tolist())
            logger.warning(
                "the retrieval index holds %d of %d %s documents: cascade.helper.corpus_megabytes allows no more",
                len(numbers),
                split.n_documents,
                name,
            )
        yield from prepared.texts(name, numbers)


@contextmanager
def library_documents(library: Sequence[str], folder: Path, most_bytes: int) -> Iterator[Iterator[str]]:
    """The documents of the sources; what must be fetched is kept below ``folder`` for the block."""
    if not library:
        yield iter(())
        return
    settings = DataConfig(sources=list(library), keep_sources=False)
    with tempfile.TemporaryDirectory(prefix="library-", dir=folder) as fetched:
        files = gather(settings, Path(fetched))
        yield _limited((document.text for document in Reader(settings).documents(files)), most_bytes)


def _limited(texts: Iterator[str], most_bytes: int) -> Iterator[str]:
    """The first texts, up to ``most_bytes``."""
    for text in texts:
        most_bytes -= len(text.encode())
        if most_bytes < 0:
            logger.warning("the library is cut: cascade.helper.corpus_megabytes allows no more of it")
            return
        yield text
