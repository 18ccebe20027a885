"""Writes a closed world to disk: documents, fact table, questions."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from components.core.atomic import full_disk_explained, replacing
from components.data.world.articles import Document, document_counts, documents
from components.data.world.config import WorldConfig
from components.data.world.facts import Entity, build, facts_of
from components.data.world.files import DOCUMENTS, FACTS, QUESTIONS
from components.data.world.questions import questions

ReportProgress = Callable[[float, str], None]


def _silent(fraction: float, message: str) -> None:
    pass


def write_world(cfg: WorldConfig, folder: Path, report: ReportProgress = _silent) -> None:
    """Write ``documents.jsonl``, ``facts.jsonl`` and ``questions.jsonl`` into ``folder``, each whole or not at all.

    - documents: ``{"id", "text", "facts": [[start, end, fact id], ...]}``, offsets in characters, in text order;
    - facts: ``{"id", "kind", "subject", "relation", "value"}``, most popular subject first;
    - questions: ``{"id", "question", "prompt", "answer", "aliases", "fact", "mentions", "stated"}``: ``mentions`` is
      how often the subject is named in the corpus, ``stated`` how often the fact is. A prompt ends without the space,
      if any, that stands before the answer.

    Facts are held in memory (about 3 kB an entity), documents are not. ``report(fraction, message)`` hears of every
    2 %. Raises ``DiskFullError``.
    """
    report(0.0, f"inventing {cfg.entities} entities")
    entities = build(cfg)
    _write(folder / FACTS, (fact._asdict() for entity in entities for fact in facts_of(entity)))
    counts: Counter[str] = Counter()
    _write(folder / DOCUMENTS, _told(cfg, entities, counts, report))
    _write(folder / QUESTIONS, (question._asdict() for question in questions(cfg, entities, counts)))
    report(1.0, "wrote the closed world")


def _told(
    cfg: WorldConfig, entities: list[Entity], counts: Counter[str], report: ReportProgress
) -> Iterable[Mapping[str, Any]]:
    named = _names(entities)
    total = sum(document_counts(cfg))
    for done, document in enumerate(documents(cfg, entities)):
        if done % max(1, total // 50) == 0:
            report(done / total, f"wrote {done} of {total} documents")
        _count(document, named, counts)
        yield {"id": document.id, "text": document.text, "facts": document.spans}


def _names(entities: list[Entity]) -> dict[str, str]:
    """By the id of each fact whose value is an entity, the id of that entity."""
    names = {
        f"{entity.id}.{relation}": value.id
        for entity in entities
        for relation, value in entity.values.items()
        if isinstance(value, Entity)
    }
    for entity in entities:
        names |= {f"{entity.id}.name": entity.id, f"{entity.id}.surname": entity.id}
    return names


def _count(document: Document, named: Mapping[str, str], counts: Counter[str]) -> None:
    for span in document.spans:
        counts[span.fact] += 1
        if span.fact in named:
            counts[named[span.fact]] += 1


def _write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary, full_disk_explained(path), temporary.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
