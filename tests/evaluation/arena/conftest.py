"""A small closed world, and writers whose texts are known."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from components.data.world.comprehension import World
from components.data.world.config import WorldConfig
from components.data.world.files import DOCUMENTS, FACTS
from components.data.world.writer import write_world
from components.evaluation.text_models.base import GREEDY, Continuation, Draw, Likelihood, TokenScores, Written


@dataclass
class Writer:
    """A ``TextModel`` that writes what ``says`` tells."""

    name: str
    says: Callable[[str], str]
    identity: str = "written by a test"
    context_length: int = 512
    asked: list[str] = field(default_factory=list)

    def write(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str] = (),
        presence_penalty: float = 0.0,
        draw: Draw = GREEDY,
    ) -> list[Written]:
        self.asked += prompts
        return [Written(text := self.says(prompt), len(text.split())) for prompt in prompts]

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]:
        raise NotImplementedError("an arena only asks for texts")

    def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        raise NotImplementedError("an arena only asks for texts")

    def close(self) -> None: ...


@dataclass(frozen=True)
class Told:
    """A world, and a true document of every entity that one begins with its name."""

    world: World
    documents: dict[str, str]


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("world")
    write_world(WorldConfig(entities=60, documents_per_entity=1.5), folder)
    world = World.load(folder / FACTS)
    texts = [json.loads(line)["text"] for line in (folder / DOCUMENTS).read_text("utf-8").splitlines()]
    names = world.table.by_name
    documents = {name: text for text in texts for name in names if text.startswith(f"{name} ")}
    return Told(world, documents)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return tmp_path / "parts"
