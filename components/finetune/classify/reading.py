"""Files of labelled texts to rows. Every error names the file and the line or row."""

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.errors import InputError
from components.data.prepared import PreparedData
from components.finetune.classify.config import LabelledTextsConfig
from components.finetune.classify.labelled import LabelledText
from components.finetune.classify.sources import WORLD, file_format, matches

Fields = Mapping[str, Any]


def read_texts(sources: Sequence[str], config: LabelledTextsConfig, prepared: PreparedData) -> list[LabelledText]:
    """All texts, in order.

    Raises ``InputError`` for a missing field, an empty text, a label that is not text, several labels where one is
    asked for, a damaged file, and ``world`` where the base has learnt from other data.
    """
    return [text for source in sources for text in _read(source, config, prepared)]


def _read(source: str, config: LabelledTextsConfig, prepared: PreparedData) -> Iterator[LabelledText]:
    if source == WORLD:
        yield from _world(prepared)
        return
    for path in matches(source):
        for place, fields in _rows(path):
            yield _labelled(f"{path}, {place}", fields, config)


def _rows(path: Path) -> Iterator[tuple[str, Fields]]:
    """Place in the file and content of every row."""
    try:
        if file_format(path) == ".parquet":
            yield from ((f"row {number}", row) for number, row in enumerate(pq.read_table(path).to_pylist(), 1))
            return
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:  # only \n ends a line of JSON
            yield from _csv(file) if file_format(path) == ".csv" else _jsonl(path, file)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged, or not what its name says: {error}") from error


def _csv(lines: Iterable[str]) -> Iterator[tuple[str, Fields]]:
    for number, row in enumerate(csv.DictReader(lines, strict=True), 2):
        yield f"row {number}", row


def _jsonl(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, Fields]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is {type(row).__name__}, not an object with fields")
        yield f"line {number}", row


def _labelled(place: str, fields: Fields, config: LabelledTextsConfig) -> LabelledText:
    for name, setting in ((config.text_field, "text_field"), (config.label_field, "label_field")):
        if fields.get(name) is None:
            raise InputError(f"{place} has no field {name!r} among {sorted(map(str, fields))[:12]}: set {setting}")
    text = fields[config.text_field]
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{place} has an empty text, or none: {text!r}. Take the row out")
    return LabelledText(id=place, text=text, labels=_labels(place, fields[config.label_field], config))


def _labels(place: str, value: Any, config: LabelledTextsConfig) -> list[str]:
    if config.kind == "single":
        if isinstance(value, list | tuple):
            raise InputError(f"{place} has a list of labels, {value!r}, but each text is to have one: set kind=multi")
        return [_label(place, value)]
    if isinstance(value, str):
        value = [each for each in value.split(config.label_separator) if each]
    if not isinstance(value, list | tuple):
        raise InputError(f"{place} has {value!r} for its labels: with kind=multi, give a list of them")
    return list(dict.fromkeys(_label(place, each) for each in value))


def _label(place: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise InputError(f"{place} has {value!r} for a label: labels are words or whole numbers")
    return str(value).strip()


def _world(prepared: PreparedData) -> Iterator[LabelledText]:
    """The articles of the closed world, each with the kind of its subject."""
    documents, facts = prepared.world_documents, prepared.fact_table
    if documents is None or facts is None:
        raise InputError("the base has not learnt from the closed world: name files of labelled texts in data.train")
    kinds = {row["id"].partition(".")[0]: row["kind"] for row in map(json.loads, facts.read_bytes().splitlines())}
    for row in map(json.loads, documents.read_bytes().splitlines()):
        yield LabelledText(id=row["id"], text=row["text"], labels=[kinds[row["id"].partition("/")[0]]])
