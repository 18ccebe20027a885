"""Anybody's documents for an evaluation: a bounded choice from any sources, without a tokenizer or shards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappush, heappushpop
from pathlib import Path
from tempfile import TemporaryDirectory

from components.core.errors import InputError
from components.data.config import DataConfig
from components.data.gather import gather
from components.data.reading import Document, Reader
from components.data.sources import WORLD
from components.data.split import TEST, position, split_of
from components.data.world.files import DOCUMENTS, WORLD_FOLDER
from components.evaluation.evaluate_config import EvaluateStageConfig


@dataclass(frozen=True)
class Text:
    """A document."""

    domain: str
    """The source that it is from, as it was given."""
    id: str
    """File and place in it."""
    text: str


def read_texts(config: EvaluateStageConfig, folder: Path, held_out: bool) -> tuple[list[Text], Path | None]:
    """The chosen documents of each source, and where the closed world's documents lie, if it is among the sources.

    ``held_out`` keeps only those that training on these sources leaves out for tests.

    Raises ``InputError`` for a source that cannot be read or gives no document.
    """
    texts: list[Text] = []
    for number, source in enumerate(config.data.sources):
        cfg = config.data.model_copy(update={"sources": [source], "keep_sources": False})
        files = gather(cfg, folder / f"{number:03d}")
        chosen = _Choice(config.evaluate.text.max_documents, config.evaluate.text.max_bytes)
        for document in Reader(cfg).documents(files):
            place = position(document.text.encode())
            if not held_out or split_of(place, cfg.validation_fraction, cfg.test_fraction) == TEST:
                chosen.offer(place, document)
        if not (found := chosen.documents()):
            raise InputError(_nothing(source, cfg, held_out))
        texts += [Text(source, document.id, document.text) for document in found]
    place_of_world = next((n for n, source in enumerate(config.data.sources) if source == WORLD), None)
    world = None if place_of_world is None else folder / f"{place_of_world:03d}" / WORLD_FOLDER / DOCUMENTS
    return texts, world


@contextmanager
def room_for_sources(folder: Path) -> Iterator[Path]:
    """A folder of this process for what is fetched or generated; it is gone after the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="sources-") as made:
        yield Path(made)


def _nothing(source: str, cfg: DataConfig, held_out: bool) -> str:
    if not held_out:
        return f"data.sources: {source} gives no document with text in it"
    return (
        f"data.sources: of {source}, no document is held out from training (data.test_fraction={cfg.test_fraction:g}): "
        "give more documents, or evaluate all of them with text.documents=all"
    )


class _Choice:
    """The documents of smallest position within both limits; at least one. Memory holds these, and one more."""

    def __init__(self, max_documents: int, max_bytes: int) -> None:
        self._max_documents, self._max_bytes = max_documents, max_bytes
        self._heap: list[tuple[float, str, Document]] = []  # largest position on top

    def offer(self, place: float, document: Document) -> None:
        entry = (-place, document.id, document)
        if len(self._heap) < self._max_documents:
            heappush(self._heap, entry)
        else:
            heappushpop(self._heap, entry)

    def documents(self) -> list[Document]:
        found: list[Document] = []
        size = 0
        for _, _, document in sorted(self._heap, reverse=True):
            size += len(document.text.encode())
            if found and size > self._max_bytes:
                break
            found.append(document)
        return found
