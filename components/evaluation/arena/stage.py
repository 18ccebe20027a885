"""Stage ``arena``: models write to the same prompts, and a judge says who did better."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager

from components.core.acceptance import accepted_section
from components.core.artifact import CHECKPOINTS, REPORT, Artifact
from components.core.atomic import write_text
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.world.comprehension import World
from components.evaluation.arena.artifact import Arena
from components.evaluation.arena.config import ArenaConfig, ArenaStageConfig, player_name
from components.evaluation.arena.judges import EndpointJudge, Judge, WorldJudge
from components.evaluation.arena.play import play
from components.evaluation.arena.prompts import chosen_prompts
from components.evaluation.arena.report import report
from components.evaluation.arena.results import ELO_POINTS, ArenaResults
from components.evaluation.arena.standings import some_games, standings
from components.evaluation.evaluate_config import EvaluateConfig
from components.evaluation.report_page import markdown, page
from components.evaluation.score_table import write_scores
from components.evaluation.text_models.base import TextModel
from components.evaluation.text_models.opened import opened
from components.model.bundle import Bundle
from components.training.trained import TrainedModel

_PARTS = "games"
_GAMES_SHOWN = 6
_NOT_IN_A_NAME = re.compile(r"[^\w .\-/]")  # of a metric


def stage(run: Run, config: ArenaStageConfig, *, prepared: PreparedData | None = None, **players: Artifact) -> Arena:
    """Let the models of ``config.players`` meet.

    Metrics: ``elo <model>``, and ``first_wins`` for a judge that sees the order. Raises ``ServiceError`` if a model or
    the judge does not answer; what was written and judged until then is kept.

    Arguments:
        run: where the games and the report go; texts and verdicts that its folder holds are not made again.
        config: the players, and how they meet.
        prepared: the closed world whose facts the exact judge knows.
        players: bundles or trained models, as ``player_00``, ``player_01`` and so on.
    """
    world = _world(prepared)
    prompts = chosen_prompts(config.arena, world)
    with _opened(config.players, players) as models, _judge(config.arena, world) as judge:
        scores = play(models, judge, prompts, config.arena, run.folder / CHECKPOINTS / _PARTS, run.report)
        results = standings(scores, judge.name, config.arena)
    write_scores(run.folder / Arena.SCORES, scores)
    write_text(run.folder / Arena.RESULTS, results.model_dump_json(indent=2) + "\n")
    title, sections = "Who is stronger", list(report(results, some_games(scores, _GAMES_SHOWN)))
    write_text(run.folder / Arena.PAGE, page(title, sections))
    write_text(run.folder / REPORT, markdown(title, sections) + accepted_section(run.accepted))
    metrics = _metrics(results)
    run.log(metrics, None)
    run.report(1.0, f"{len(results.meetings)} meetings on {results.prompts:,} prompts")
    return run.seal(metrics, {"judge": results.judge}, _rows(results), view=Arena)


def _world(prepared: PreparedData | None) -> World | None:
    return World.load(prepared.fact_table) if prepared is not None and prepared.fact_table is not None else None


@contextmanager
def _opened(players: Sequence[EvaluateConfig], artifacts: Mapping[str, Artifact]) -> Iterator[list[TextModel]]:
    """All models at once: they are small, and an endpoint takes no room."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(_open(player, artifacts.get(player_name(place))))
            for place, player in enumerate(players)
        ]


def _open(player: EvaluateConfig, artifact: Artifact | None) -> AbstractContextManager[TextModel]:
    bundle = Bundle.open(artifact.folder) if artifact is not None and artifact.stage in Bundle.stages else None
    trained = TrainedModel.open(artifact.folder) if artifact is not None and bundle is None else None
    return opened(player, bundle, trained)


@contextmanager
def _judge(cfg: ArenaConfig, world: World | None) -> Iterator[Judge]:
    if cfg.judge.kind == "local":
        assert world is not None, "the choice of the prompts has refused this"
        yield WorldJudge(world)
        return
    with closing(EndpointJudge(cfg.judge)) as judge:
        yield judge


def _metrics(results: ArenaResults) -> dict[str, float]:
    strengths = {
        _NOT_IN_A_NAME.sub("_", f"elo {player.model}"): ELO_POINTS * player.strength.estimate
        for player in results.players
    }
    return strengths if results.first_wins is None else {**strengths, "first_wins": results.first_wins}


def _rows(results: ArenaResults) -> list[tuple[str, str]]:
    return [
        (player.model, f"{ELO_POINTS * player.strength.estimate:+.0f} Elo points, {player.characters:,.0f} characters")
        for player in results.players
    ]
