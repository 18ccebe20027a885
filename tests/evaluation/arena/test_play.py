"""Whole arenas: who writes true texts wins, both orders are played, and what was judged is never judged again."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from components.core.errors import InputError, ServiceError
from components.evaluation.arena.config import ArenaConfig, ArenaJudgeConfig
from components.evaluation.arena.judges import Duel, EndpointJudge, Judge, Verdict, WorldJudge
from components.evaluation.arena.play import WIN, play
from components.evaluation.arena.prompts import chosen_prompts
from components.evaluation.arena.report import report
from components.evaluation.arena.standings import some_games, standings
from components.evaluation.report_page import markdown
from components.evaluation.score_table import rows
from tests.clients.server import Server
from tests.evaluation.arena.conftest import Told, Writer

CFG = ArenaConfig(resamples=200, max_tokens=500)
PROMPTS = [f"prompt {number}" for number in range(40)]


def arena(
    models: Sequence[Writer], judge: Judge, parts: Path, prompts: Sequence[str] = PROMPTS, cfg: ArenaConfig = CFG
) -> pa.Table:
    return play(models, judge, prompts, cfg, parts, lambda fraction, name: None)


class LikesFirst:
    """Prefers whatever it sees first, and says nothing about some prompts."""

    name, sees_order = "likes the first", True

    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        return [Verdict(None if duel.prompt.endswith("9") else 1.0, "the first") for duel in duels]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def test_who_writes_true_texts_wins(told: Told, parts: Path) -> None:
    names = list(told.documents)
    other = dict(zip(names, [*names[1:], names[0]], strict=True))
    true = Writer("true", lambda name: told.documents[name][len(name) :])
    silent = Writer("silent", lambda name: ".")
    false = Writer("false", lambda name: told.documents[other[name]][len(other[name]) :])
    scores = arena([false, true, silent], WorldJudge(told.world), parts, names)
    results = standings(scores, "exact", CFG)
    assert [player.model for player in results.players] == ["true", "silent", "false"]
    assert results.first_wins is None
    assert {score.format for score in rows(scores) if score.metric == WIN} == {""}
    page = markdown("Arena", report(results, some_games(scores, 4)))
    assert "true is the strongest of 3 models" in page
    assert "0 false against" in page


def test_a_preference_for_the_first_text_is_seen_and_cancels(parts: Path) -> None:
    scores = arena([Writer("a", str.upper), Writer("b", str.lower)], LikesFirst(), parts)
    results = standings(scores, "likes the first", CFG)
    assert results.first_wins == 1.0
    assert [player.strength.estimate for player in results.players] == pytest.approx([0, 0])
    assert results.meetings[0].win_rate.estimate == 0.5
    assert results.undecided == 2 * 4
    assert results.meetings[0].games == 2 * 36


def test_the_rows_say_who_met_whom_in_which_place(parts: Path) -> None:
    scores = arena([Writer("a", str.upper), Writer("b", str.lower)], LikesFirst(), parts, ["x"])
    games = {(each.model, each.document, each.format): each.score for each in rows(scores) if each.metric == WIN}
    assert games == {
        ("a", "x against b", "first"): 1.0,
        ("b", "x against a", "second"): 0.0,
        ("b", "x against a", "first"): 1.0,
        ("a", "x against b", "second"): 0.0,
    }


def test_an_arena_whose_judge_went_away_goes_on_and_asks_nothing_twice(server: Server, parts: Path) -> None:
    server.say = lambda message: "A"
    alive, prompts = [False], PROMPTS[:20]
    server.act = lambda handler: False if alive[0] or len(server.bodies) <= 35 else handler.send({}, 503)
    settings = ArenaJudgeConfig(kind="endpoint", url=server.url, retries=0, parallel=8, timeout_seconds=5)
    models = [Writer("a", str.upper), Writer("b", str.lower)]
    with pytest.raises(ServiceError, match="What has been judged is kept"):
        arena(models, EndpointJudge(settings), parts, prompts)
    assert len(models[0].asked) == len(prompts)
    before, alive[0] = len(server.bodies), True
    scores = arena(models, EndpointJudge(settings), parts, prompts)
    assert len(models[0].asked) == len(prompts), "what was written is not written again"
    asked_again = len(server.bodies) - before
    assert asked_again == 2 * (len(prompts) - 16), "the first sixteen prompts had been judged"
    undisturbed = arena(models, EndpointJudge(settings), parts.with_name("undisturbed"), prompts)
    assert games(scores) == games(undisturbed)


def games(scores: pa.Table) -> list[tuple[str, str, str, float]]:
    return [(each.model, each.document, each.format, each.score) for each in rows(scores) if each.metric == WIN]


def test_everyone_meets_the_first_only_if_that_is_wanted(parts: Path) -> None:
    writers = [Writer(name, str.upper) for name in "abc"]
    scores = arena(writers, LikesFirst(), parts, ["x"], CFG.model_copy(update={"pairs": "first"}))
    assert {document for _, document, _, _ in games(scores)} == {"x against a", "x against b", "x against c"}
    assert standings(scores, "j", CFG).meetings[-1].against == "c"


@pytest.mark.parametrize("names", [["a"], ["a", "a"], []])
def test_an_arena_needs_two_different_models(parts: Path, names: list[str]) -> None:
    with pytest.raises(InputError, match="at least two different models"):
        arena([Writer(name, str.upper) for name in names], LikesFirst(), parts)


def test_a_judge_that_never_decides_leaves_no_common_scale(parts: Path) -> None:
    scores = arena([Writer("a", str.upper), Writer("b", str.lower)], LikesFirst(), parts, ["9", "19"])
    with pytest.raises(InputError, match=r"a \| b"):
        standings(scores, "silent", CFG)


def test_prompts_come_from_files_each_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One\n\nTwo\nOne\n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "Three\\nlines", "id": 1}\n')
    cfg = ArenaConfig(
        prompts=[str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")],
        judge=ArenaJudgeConfig(kind="endpoint", url="http://127.0.0.1:9/v1"),
    )
    assert chosen_prompts(cfg, None) == ["One", "Two", "Three\nlines"]
    assert len(chosen_prompts(cfg.model_copy(update={"max_prompts": 2}), None)) == 2


def test_the_names_of_the_world_are_the_prompts_unless_others_are_given(told: Told) -> None:
    prompts = chosen_prompts(ArenaConfig(max_prompts=10), told.world)
    assert len(set(prompts)) == 10
    assert set(prompts) <= told.world.table.by_name.keys()


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "a.txt", "holds no prompt"),
        ("One", "a.csv", "is neither .txt"),
        ('{"text": "x"}', "a.jsonl", "line 1 is no JSON object with `prompt`"),
        ('{"prompt": "x"}\n{"prompt": 3}', "a.jsonl", "line 2: `prompt` is 3"),
        (None, "a.txt", "cannot be read"),
    ],
)
def test_bad_files_of_prompts_are_refused(tmp_path: Path, content: str | None, name: str, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    judge = ArenaJudgeConfig(kind="endpoint", url="http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match=message):
        chosen_prompts(ArenaConfig(prompts=[str(tmp_path / name)], judge=judge), None)


def test_prompts_that_nobody_can_judge_are_refused(told: Told, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no closed world"):
        chosen_prompts(ArenaConfig(), None)
    (tmp_path / "a.txt").write_text("Somebody Unknown\n")
    cfg = ArenaConfig(prompts=[str(tmp_path / "a.txt")])
    with pytest.raises(InputError, match="no entity 'Somebody Unknown'"):
        chosen_prompts(cfg, told.world)
    with pytest.raises(InputError, match=r"arena\.judge\.kind=endpoint"):
        chosen_prompts(cfg, None)
