"""Copies every source to local files under ``raw/``, so that it can be kept, versioned and read again."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from components.core.atomic import full_disk_explained, replacing
from components.data.config import DataConfig
from components.data.download import download, state_files
from components.data.hub import HUB_PREFIX, fetch_dataset
from components.data.sources import (
    PYDOC,
    WORLD,
    SourceFile,
    is_url,
    kind_of,
    local_files,
    pydoc_topics,
    url_name,
)
from components.data.world.files import DOCUMENTS, WORLD_FOLDER
from components.data.world.writer import write_world

Report = Callable[[float, str], None]


def gather(cfg: DataConfig, folder: Path, report: Report = lambda fraction, message: None) -> list[SourceFile]:
    """Copy, download or generate every source into ``folder`` and return the files to read, in the order of sources.

    With ``keep_sources`` off, local files are read where they lie. Of an interrupted run only downloads are reused
    (they are checked against the server); everything else in ``folder`` is removed first. Raises ``InputError``,
    ``ServiceError`` or ``DiskFullError``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder, cfg)
    files: list[SourceFile] = []
    for number, source in enumerate(cfg.sources):

        def report_source(fraction: float, message: str, number: int = number) -> None:
            report((number + min(fraction, 1.0)) / len(cfg.sources), message)

        report_source(0.0, f"gathering {source}")
        files += _gather_one(source, cfg, folder, f"{number:03d}", report_source)
    report(1.0, f"gathered {len(files)} files")
    return files


def discard(folder: Path) -> None:
    """Remove the gathered files except the closed world, which carries the facts and questions of its documents."""
    for path in folder.iterdir():
        if path.name != WORLD_FOLDER:
            path.unlink()


def forget_downloads(folder: Path) -> None:
    """Remove the notes that make downloads resumable: they are not part of a finished result."""
    for note in folder.glob(".*.validator"):
        note.unlink()


def _gather_one(source: str, cfg: DataConfig, folder: Path, prefix: str, report: Report) -> Iterator[SourceFile]:
    if source == WORLD:
        write_world(cfg.world, folder / WORLD_FOLDER, report)
        yield _generated(folder / WORLD_FOLDER / DOCUMENTS, source)
    elif source == PYDOC:
        path = folder / f"{prefix}-pydoc.jsonl"
        _write_topics(path)
        yield _generated(path, source)
    elif source.startswith(HUB_PREFIX):
        path = folder / f"{prefix}-hub.jsonl"
        fetch_dataset(source, cfg.text_field, path, report)
        yield _generated(path, source)
    elif is_url(source):
        path = _download_path(folder, prefix, source)
        download(source, path, report)
        yield SourceFile(path, source, *kind_of(path.name, source), cfg.text_field)
    else:
        paths = local_files(source)
        for number, path in enumerate(paths):
            report(number / len(paths), f"copying {path}" if cfg.keep_sources else f"found {path}")
            read = _copy(path, folder / f"{prefix}-{number:05d}-{path.name}") if cfg.keep_sources else path
            yield SourceFile(read, str(path), *kind_of(path.name, str(path)), cfg.text_field)


def _generated(path: Path, source: str) -> SourceFile:
    return SourceFile(path, source, "jsonl", "", "text")


def _write_topics(path: Path) -> None:
    with replacing(path) as temporary, full_disk_explained(path), temporary.open("w", encoding="utf-8") as file:
        for topic, text in sorted(pydoc_topics().items()):
            file.write(json.dumps({"id": topic, "text": text}, ensure_ascii=False) + "\n")


def _copy(source: Path, path: Path) -> Path:
    with replacing(path) as temporary, full_disk_explained(path):
        shutil.copyfile(source, temporary)
    return path


def _download_path(folder: Path, prefix: str, url: str) -> Path:
    return folder / f"{prefix}-{url_name(url)}"


def _clear(folder: Path, cfg: DataConfig) -> None:
    downloads = [
        _download_path(folder, f"{number:03d}", source) for number, source in enumerate(cfg.sources) if is_url(source)
    ]
    kept = {path for download in downloads for path in (download, *state_files(download))}
    for path in set(folder.iterdir()) - kept:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
