import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from components.data.world.config import WorldConfig
from components.data.world.writer import write_world

WORLD = WorldConfig()


class WrittenWorld(NamedTuple):
    """A world read back from disk, as a stage would."""

    folder: Path
    documents: list[dict[str, Any]]
    facts: dict[str, dict[str, str]]
    questions: list[dict[str, Any]]


def read_back(folder: Path) -> WrittenWorld:
    documents, facts, questions = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("documents", "facts", "questions")
    )
    return WrittenWorld(folder, documents, {fact["id"]: fact for fact in facts}, questions)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> WrittenWorld:
    folder = tmp_path_factory.mktemp("world")
    write_world(WORLD, folder)
    return read_back(folder)
