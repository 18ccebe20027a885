"""The exact judge counts what is true and false; an endpoint's answers are read, and nonsense is no verdict."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from components.core.errors import ServiceError
from components.evaluation.arena.config import ArenaJudgeConfig
from components.evaluation.arena.judges import Duel, EndpointJudge, Text, WorldJudge
from tests.clients.server import Server
from tests.evaluation.arena.conftest import Told


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def judge(server: Server, retries: int = 0) -> EndpointJudge:
    return EndpointJudge(ArenaJudgeConfig(kind="endpoint", url=server.url, retries=retries, timeout_seconds=2))


def texts(told: Told) -> Iterator[tuple[str, Text, Text]]:
    """Name, a true document, and the same document about somebody else, so with false statements."""
    names = list(told.documents)
    for name, other in pairwise(names):
        true, false = told.documents[name], told.documents[other]
        yield name, Text(true[len(name) :], True), Text(false[len(other) :], True)


def test_the_true_text_wins_and_the_same_text_ties(told: Told) -> None:
    exact = WorldJudge(told.world)
    found = list(texts(told))
    assert len(found) > 10
    forth = exact.verdicts([Duel(name, true, false) for name, true, false in found])
    assert sum(each.score == 1 for each in forth) > 0.9 * len(found)
    assert not any(each.score == 0 for each in forth)
    assert " true and 0 false against " in forth[0].said
    back = exact.verdicts([Duel(name, false, true) for name, true, false in found])
    assert [each.score for each in back] == [1 - (each.score or 0) for each in forth]
    assert {each.score for each in exact.verdicts([Duel(name, true, true) for name, true, _ in found])} == {0.5}


def test_saying_a_fact_again_and_again_gains_nothing(told: Told) -> None:
    exact = WorldJudge(told.world)
    name, text = max(told.documents.items(), key=lambda item: len(item[1]))
    once = Text(text[len(name) :], True)
    (verdict,) = exact.verdicts([Duel(name, Text(f"{once.text} {once.text}", True), once)])
    assert verdict.score == 0.5


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("A", 1.0), ("b.", 0.0), ("T", 0.5), ("**A**", 1.0), ("Text B is better", 0.0), (" tie", 0.5),
        ("I think that A", None), ("", None), ("Apples", None), ("Both", None),
    ],
)  # fmt: skip
def test_one_letter_is_a_verdict_and_nothing_else(server: Server, said: str, score: float | None) -> None:
    server.say = lambda message: said
    (verdict,) = judge(server).verdicts([Duel("p", Text("one", True), Text("two", True))])
    assert (verdict.score, verdict.said) == (score, said)


def test_the_judge_sees_the_texts_in_their_order(server: Server) -> None:
    server.say = lambda message: "A" if message.index("the better") < message.index("the worse") else "B"
    better, worse = Text("the better", True), Text("the worse", True)
    verdicts = judge(server).verdicts([Duel("p", better, worse), Duel("p", worse, better)])
    assert [each.score for each in verdicts] == [1.0, 0.0]


def test_a_judge_that_cannot_be_reached_is_an_error_that_says_what_to_do(server: Server) -> None:
    url = server.url
    server.stop()
    unreachable = EndpointJudge(ArenaJudgeConfig(kind="endpoint", url=url, retries=0, timeout_seconds=2))
    with pytest.raises(ServiceError, match=r"the judge at http.*arena\.judge\.url") as raised:
        unreachable.verdicts([Duel("p", Text("one", True), Text("two", True))])
    assert "factscore" not in str(raised.value)
