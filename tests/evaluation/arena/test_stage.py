"""The stage with real models: texts that they write, a judge behind an endpoint, and a report that can be sent."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.core.errors import ServiceError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.evaluation.arena.artifact import Arena
from components.evaluation.arena.config import ArenaConfig, ArenaJudgeConfig, ArenaStageConfig
from components.evaluation.arena.stage import stage
from components.evaluation.evaluate_config import EvaluateConfig
from components.evaluation.score_table import read_scores, rows
from components.model.bundle import Bundle
from components.model.transformer import Transformer
from tests.clients.server import Server
from tests.evaluation.conftest import SHAPE, bundle


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bundles(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Two models that have learnt nothing, each in its own way."""
    found = {}
    for place in range(2):
        torch.manual_seed(place)
        model = Transformer(SHAPE, prepared.tokenizer().vocab_size).eval()
        found[f"player_{place:02}"] = bundle(tmp_path_factory.mktemp("bundle"), model, prepared)
    return found


def config(folder: Path, server: Server) -> ArenaStageConfig:
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"{name} was born in\n" for name in ("Ada", "Bram", "Cleo", "Dora", "Emil")))
    judge = ArenaJudgeConfig(kind="endpoint", url=server.url, retries=0, timeout_seconds=10)
    arena = ArenaConfig(prompts=[str(prompts)], judge=judge, max_tokens=8, resamples=200)
    return ArenaStageConfig(arena=arena, players=[EvaluateConfig(model="", name=name) for name in ("one", "two")])


def test_models_meet_and_the_result_can_be_sent(tmp_path: Path, server: Server, bundles: dict[str, Bundle]) -> None:
    server.say = lambda message: "A"
    arena = stage(Run.local(tmp_path / "arena", "arena"), config(tmp_path, server), **bundles)
    results = arena.results()
    assert results.first_wins == 1.0
    assert {player.model for player in results.players} == {"one", "two"}
    assert all(0 < player.tokens <= 40 for player in results.players)
    assert arena.metrics["elo one"] == pytest.approx(0, abs=1e-6)
    scores = rows(read_scores(arena.path(Arena.SCORES)))
    assert {score.metric for score in scores} >= {"characters", "win", "cpu_seconds"}
    page = arena.path(Arena.PAGE).read_text()
    assert "Who is stronger" in page
    assert not re.search(r"(href|src)=", page)


def test_a_judge_that_is_not_there_stops_the_stage_and_the_next_run_goes_on(
    tmp_path: Path, server: Server, bundles: dict[str, Bundle]
) -> None:
    folder, settings = tmp_path / "arena", config(tmp_path, server)
    server.act = lambda handler: handler.send({}, 503)
    with pytest.raises(ServiceError, match=r"arena\.judge\.url"):
        stage(Run.local(folder, "arena"), settings, **bundles)
    server.act, server.say = None, lambda message: "B"
    again = stage(Run.local(folder, "arena"), settings, **bundles)
    assert again.results().first_wins == 0.0
