"""A closed world, and a model that answers from its table: what it says is known, so the scores must be too."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from components.cascade.helpers.base import Call, Reply
from components.cascade.helpers.fact_table import FactTableHelper
from components.core.run import Run
from components.data.config import DataConfig
from components.data.prepare import stage as prepare
from components.data.prepared import PreparedData
from components.data.world.comprehension import World
from components.data.world.config import WorldConfig
from components.evaluation.robustness.config import RobustnessConfig
from components.evaluation.robustness.items import Item, world_items
from components.evaluation.text_models.base import GREEDY, Continuation, Draw, Likelihood, TokenScores, Written

CFG = RobustnessConfig(questions=40)


@dataclass
class TableModel:
    """Writes what the table says, and finds likely what it would write; without the table it has one answer for all."""

    helper: FactTableHelper | None
    name: str = "table"
    identity: str = "table"
    context_length: int = 1000
    answers: dict[str, str] = field(default_factory=dict)

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]:
        raise NotImplementedError  # no robustness task reads whole texts

    def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        return [self._likelihood(each) for each in requests]

    def write(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str] = (),
        presence_penalty: float = 0.0,
        draw: Draw = GREEDY,
    ) -> list[Written]:
        return [Written(text, len(text.split()), 1) for text in map(self._answer, prompts)]

    def close(self) -> None:
        pass

    def _answer(self, prompt: str) -> str:
        if self.helper is None:
            return " Nowhere."
        if prompt not in self.answers:
            self.answers[prompt] = self._asked(self.helper, prompt)
        return self.answers[prompt]

    def _asked(self, helper: FactTableHelper, prompt: str) -> str:
        (reply,) = helper.answer([Call("test", prompt, (), "entity", 100)])
        assert isinstance(reply, Reply)
        return f"{reply.text or ' nothing'}. And so on."

    def _likelihood(self, request: Continuation) -> Likelihood:
        tokens = len(request.text.split())
        likely = request.text == self._answer(request.context)
        return Likelihood(-1.0 * tokens if likely else -3.0 * tokens, likely, tokens)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    run = Run.local(tmp_path_factory.mktemp("prepare"), "prepare")
    return prepare(run, DataConfig(sources=["world"], vocab_size=1024, world=WorldConfig(entities=60)))


@pytest.fixture(scope="session")
def world(prepared: PreparedData) -> World:
    assert prepared.fact_table is not None
    return World.load(prepared.fact_table)


@pytest.fixture(scope="session")
def items(prepared: PreparedData, world: World) -> list[Item]:
    assert prepared.questions is not None
    return world_items(prepared.questions, world, CFG)


@pytest.fixture(scope="session")
def knowing(world: World) -> TableModel:
    return TableModel(FactTableHelper(world))


@pytest.fixture
def ignorant() -> TableModel:
    return TableModel(None)
