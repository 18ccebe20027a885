"""FActScore by hand-made splitters and judges, by a server on loopback, and by the local judge on real articles."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cascade.config import CascadeConfig
from components.cascade.decoding import Cascade
from components.core.errors import InputError
from components.evaluation.config import BootstrapConfig, FactScoreConfig, JudgeConfig
from components.evaluation.factuality.articles import Article, Passages, read_articles, read_entities
from components.evaluation.factuality.atomic_facts import Clauses, Llm, Sentences, sentences
from components.evaluation.factuality.chat import API_KEY, Chat, ChatError
from components.evaluation.factuality.factscore import (
    abstains,
    factscore,
    judged,
    open_judge,
    penalty,
    run_factscore,
    score,
    write,
)
from components.evaluation.factuality.judges import LlmJudge, LocalJudge, Statement, mentioned
from components.evaluation.factuality.real_text import FactVerdict, Response
from tests.clients.server import Handler, Server
from tests.conftest import SHARED_DATA
from tests.fakes import Told, calibration, speaker, tokenizer

CFG = BootstrapConfig(resamples=200)
TOKENS = tokenizer()
ADA = Article(
    "Ada Veldring",
    "Ada Veldring (3 May 1921 – 9 June 1990) was a Norwegian chemist. She was born in Oslo and studied in Lyon. "
    "In 1954 she discovered a blue dye, which was sold by Harwick and Sons until the 1980s.",
)
EMIL = Article("Emil Roth", "Emil Roth was an Austrian painter. He lived in Vienna and died in 1899.")


class JudgeServer(Server):
    def judge(self, **settings: object) -> JudgeConfig:
        return JudgeConfig.model_validate({"kind": "endpoint", "url": self.url, "timeout_seconds": 5.0, **settings})


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    server = JudgeServer()
    yield server
    server.stop()


def reader(message: str) -> str:
    """An LLM that splits at "and", and finds true what stands in the passages word by word."""
    if message.startswith("Break"):
        text = message.rpartition("Sentence: ")[2].removesuffix("\nFacts:\n")
        return "\n".join(f"- {part}" for part in text.split(" and "))
    context, _, question = message.partition("\n\nInput: ")
    return str(question.removesuffix(" True or False?\nOutput:").strip(". ") in context)


class Said:
    """A splitter and a judge that are told what to say by a table."""

    name = "said"

    def __init__(self, table: dict[str, bool | None]) -> None:
        self.table = table

    def facts(self, sentences: Sequence[str]) -> list[list[str] | ChatError]:
        return [
            ChatError("down") if text.startswith("?") else [part.strip() for part in text.strip(".").split(",") if part]
            for text in sentences
        ]

    def verdicts(self, statements: Sequence[Statement]) -> list[bool | ChatError]:
        said = [self.table[each.fact] for each in statements]
        return [ChatError("down") if verdict is None else verdict for verdict in said]


def response(entity: str, *supported: bool | None, status: str = "judged", unsplit: int = 0) -> Response:
    facts = [FactVerdict(fact=str(i), supported=verdict) for i, verdict in enumerate(supported)]
    return Response.model_validate(
        {"entity": entity, "text": "t", "status": status, "facts": facts, "unsplit": unsplit}
    )


def test_the_published_figures_come_out() -> None:
    found = score([response("a", *[True] * 12), response("b", True, False), response("c", status="abstained")], 10, CFG)
    assert found.score is not None
    assert found.penalised is not None
    assert found.score.estimate == pytest.approx((1 + 0.5) / 2)
    assert found.penalised.estimate == pytest.approx((1 + 0.5 * math.exp(1 - 10 / 2)) / 2)
    assert found.respond_ratio == pytest.approx(2 / 3)
    assert found.facts_per_response == 7
    assert (found.entities, found.judged, found.failures) == (3, 2, 0)
    assert found.least == found.most == pytest.approx(found.score.estimate)
    # The bootstrap draws entities: their scores are 1 and 0.5.
    assert (found.score.low, found.score.high) == (0.5, 1.0)


@given(st.integers(1, 60), st.integers(0, 30))
def test_the_length_penalty_only_touches_short_responses(facts: int, gamma: int) -> None:
    assert penalty(facts, gamma) == (1.0 if facts > gamma else pytest.approx(math.exp(1 - gamma / facts)))
    assert 0 < penalty(facts, gamma) <= 1
    assert penalty(facts, gamma) <= penalty(facts + 1, gamma)


def test_what_could_not_be_judged_counts_neither_way() -> None:
    found = score([response("a", True, None, None, False), response("b", None, status="unjudged", unsplit=2)], 0, CFG)
    assert found.score is not None
    assert found.score.estimate == 0.5
    assert (found.judged, found.failures) == (1, 5)
    assert (found.least, found.most) == (0.125, 0.875)
    nothing = score([response("a", None, status="unjudged")], 10, CFG)
    assert (nothing.score, nothing.penalised, nothing.respond_ratio, nothing.failures) == (None, None, 1.0, 1)


def test_texts_are_split_and_judged_by_their_own_articles() -> None:
    told = Said({"one": True, "two": False, "Three": None})
    texts = {"Ada Veldring": "one, two. Three", "Emil Roth": "", "Nobody": "?lost. And one."}
    told.table["And one"] = True
    knowledge = {"Ada Veldring": ADA, "Emil Roth": EMIL, "Nobody": EMIL}
    found = judged(texts, knowledge, told, told)
    assert [each.status for each in found] == ["judged", "abstained", "judged"]
    assert [fact.supported for fact in found[0].facts] == [True, False, None]
    assert found[2].unsplit == 1
    scores = factscore(texts, knowledge, told, told, 0, CFG)
    assert scores.score is not None
    assert scores.score.estimate == pytest.approx((0.5 + 1) / 2)
    assert scores.failures == 2


@pytest.mark.parametrize(
    ("text", "silent"),
    [
        ("", True),
        (" .", True),
        ("I'm sorry, but I have no information about her.", True),
        ("Ada is a name. I could not find anything about this person.", True),
        ("There is not enough reliable information about him.", True),
        ("Could you provide more context?", True),
        ("Ada Veldring was a chemist who could not find work.", False),
        ("Ada is a chemist. " * 30 + "I'm sorry, she said.", False),
    ],
)
def test_whoever_says_nothing_abstains(text: str, silent: bool) -> None:
    assert abstains(text) == silent


def test_sentences_do_not_end_at_initials_and_titles() -> None:
    text = 'J. R. Roth (b. 1880) met Dr. Ada. "Yes." He left for St. Gallen at 5 p.m. today! Łódź was next.\nA heading'
    assert sentences(text) == [
        "J. R. Roth (b. 1880) met Dr. Ada.",
        '"Yes."',
        "He left for St. Gallen at 5 p.m. today!",
        "Łódź was next.",
        "A heading",
    ]
    assert sentences(" \n. ") == []


@given(st.text(alphabet='aB. \n1!?É"', max_size=60))
def test_no_word_is_lost_between_sentences(text: str) -> None:
    letters = [character for character in text if character.isalnum()]
    assert [character for part in sentences(text) for character in part if character.isalnum()] == letters


@pytest.mark.parametrize(
    ("fact", "supported"),
    [
        ("Ada Veldring was a chemist.", True),
        ("Ada Veldring was a Norwegian chemist.", True),
        ("She was a Swedish chemist.", False),
        ("She was born in Oslo.", True),
        ("She was born in Bergen.", False),
        ("She discovered a dye in 1954.", True),
        ("She discovered a dye in 1955.", False),
        ("It was sold until the 1980.", False),
        ("She discovers blue dyes.", True),
        ("She was a painter.", False),
        ("Ada Veldring was it.", False),
        # What it cannot see: who did what.
        ("She was born in Lyon.", True),
    ],
)
def test_the_local_judge_goes_by_what_is_mentioned_together(fact: str, supported: bool) -> None:
    assert mentioned(fact, "Ada Veldring", [ADA.text]) == supported
    (verdict,) = LocalJudge(5).verdicts([Statement("Ada Veldring", fact, Passages(ADA))])
    assert verdict == supported


def test_what_stands_far_apart_is_not_mentioned_together() -> None:
    assert mentioned("She left Oslo in 1954.", "Ada", ["She left Oslo, " + "and so on " * 10 + "in 1954."])
    assert not mentioned("She left Oslo in 1954.", "Ada", ["She left Oslo, " + "and so on " * 40 + "in 1954."])


def test_the_closest_passages_are_found_in_long_articles() -> None:
    filler = "The weather in the valley was often discussed by those who lived there in the old days. " * 60
    passages = Passages(Article("Ada", f"{filler}In 1954 Ada discovered a dye. {filler}"))
    assert len(passages.texts) > 8
    assert max(len(text.split()) for text in passages.texts) <= 192
    assert " ".join(passages.texts).split() == f"{filler}In 1954 Ada discovered a dye. {filler}".split()
    assert "dye" in passages.closest("She discovered a dye.", 5)[0]
    assert len(passages.closest("She discovered a dye.", 5)) == 5
    assert Passages(Article("x", "...")).closest("y", 5) == ["..."]


def test_an_endpoint_splits_and_judges(server: JudgeServer) -> None:
    server.say = reader
    cfg = FactScoreConfig(judge=server.judge(name="large"), gamma=0)
    splitter, judge, chat = open_judge(cfg)
    assert chat is not None
    texts = {
        "Ada Veldring": "She was born in Oslo and studied in Lyon. She was born in Bergen.",
        "Emil Roth": "He lived in Vienna.",
    }
    found = judged(texts, {"Ada Veldring": ADA, "Emil Roth": EMIL}, splitter, judge)
    chat.close()
    assert [(fact.fact, fact.supported) for each in found for fact in each.facts] == [
        ("She was born in Oslo", True),
        ("studied in Lyon.", True),
        ("She was born in Bergen.", False),
        ("He lived in Vienna.", True),
    ]
    assert all(body["temperature"] == 0 and body["model"] == "large" for body in server.bodies)
    question = next(
        body["messages"][0]["content"] for body in server.bodies[1:] if "Bergen. True" in body["messages"][0]["content"]
    )
    assert f"Title: {ADA.title}\nText: {ADA.text}" in question
    assert question.endswith("Input: She was born in Bergen. True or False?\nOutput:")
    assert "large" in judge.name
    assert set(server.paths) == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("True", True),
        (" false.", False),
        ("The statement is TRUE", True),
        ("True or False? False", False),
        ("False? No: true", True),
        ("untrue words", None),
        ("banana", None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_only_true_and_false_are_verdicts(server: JudgeServer, said: object, verdict: bool | None) -> None:
    server.say = lambda message: said
    judge = LlmJudge(Chat(server.judge(retries=0)), 5)
    (found,) = judge.verdicts([Statement("Ada", "She lived.", Passages(ADA))])
    assert isinstance(found, ChatError) if verdict is None else found is verdict


@pytest.mark.parametrize(
    ("said", "facts"),
    [
        ("- One.\n- Two.", ["One.", "Two."]),
        ("Sure! Here are the facts:\n1. One.\n2) Two.\n\n* Three.", ["One.", "Two.", "Three."]),
        ("None", []),
        ("- None.", []),
        ("I would rather talk about the weather.", None),
    ],
)
def test_lists_of_facts_are_read_and_nonsense_is_none(server: JudgeServer, said: str, facts: list[str] | None) -> None:
    server.say = lambda message: said
    (found,) = Llm(Chat(server.judge(retries=0))).facts(["Ada lived."])
    assert isinstance(found, ChatError) if facts is None else found == facts


def test_failures_are_tried_again_and_what_remains_is_counted(server: JudgeServer) -> None:
    seen: dict[str, int] = {}

    def act(handler: Handler) -> bool:
        message = handler.server.bodies[-1]["messages"][0]["content"]
        seen[message] = seen.get(message, 0) + 1
        if "Lyon. True" in message or ("Oslo True" in message and seen[message] == 1):
            handler.send({"error": "busy"}, 503)
            return True
        return False

    server.say, server.act = reader, act
    splitter, judge, chat = open_judge(FactScoreConfig(judge=server.judge(retries=1, parallel=1)))
    texts = {"Ada Veldring": "She was born in Oslo and studied in Lyon."}
    (found,) = judged(texts, {"Ada Veldring": ADA}, splitter, judge)
    assert [fact.supported for fact in found.facts] == [True, None]
    scores = score([found], 0, CFG)
    assert scores.score is not None
    assert (scores.score.estimate, scores.failures, scores.least, scores.most) == (1.0, 1, 0.5, 1.0)
    assert chat is not None
    chat.close()


def test_a_judge_that_is_slow_or_dead_ends_no_run_and_scores_nothing(
    server: JudgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    def hang(handler: Handler) -> bool:
        time.sleep(0.5)
        return True

    server.act = hang
    judge = LlmJudge(Chat(server.judge(timeout_seconds=0.05, retries=3, parallel=2)), 5)
    statements = [Statement("Ada", f"She lived in {1900 + i}.", Passages(ADA)) for i in range(40)]
    began = time.monotonic()
    found = judge.verdicts(statements)
    assert time.monotonic() - began < 5
    assert all(isinstance(verdict, ChatError) for verdict in found)
    # After ten failures in a row it is left alone.
    assert len(server.bodies) <= 13
    assert "asked no more" in str(found[-1])
    assert "failed 10 times in a row" in caplog.text
    scores = score([response("Ada", *[None] * 40, status="unjudged")], 10, CFG)
    assert scores.score is None
    assert scores.failures == 40


def test_a_trickle_and_a_flood_are_no_answers(server: JudgeServer) -> None:
    server.act = lambda handler: handler.trickle()
    with pytest.raises(ChatError, match="did not answer in time"):
        Chat(server.judge(timeout_seconds=0.15, retries=0)).ask("x", 4)
    server.act = lambda handler: handler.send(b" " * (1 << 21)) is None
    with pytest.raises(ChatError, match="sent more than"):
        Chat(server.judge(retries=0)).ask("x", 4)
    for content in (b"<html>", b"[]", b'{"choices": []}', b"[" * 50_000):
        server.act = lambda handler, content=content: handler.send(content) is None  # type: ignore[misc]
        with pytest.raises(ChatError, match="no chat completion"):
            Chat(server.judge(retries=0)).ask("x", 4)


def test_a_judge_that_is_not_there_is_said_at_the_start(server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChatError, match=r"cannot be reached.*facts\.factscore\.judge\.url"):
        open_judge(FactScoreConfig(judge=JudgeConfig(kind="endpoint", url="http://127.0.0.1:9/v1", retries=0)))
    monkeypatch.setenv(API_KEY, "sk-secret")
    server.act = lambda handler: handler.send({"error": "no such key sk-secret"}, 401) is None
    with pytest.raises(ChatError, match=f"answered 401.*{API_KEY}") as caught:
        open_judge(FactScoreConfig(judge=server.judge(retries=0)))
    assert "sk-secret" not in str(caught.value)
    assert {sent["Authorization"] for sent in server.headers} == {"Bearer sk-secret"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judge": {"kind": "endpoint"}}, "judge.kind=endpoint needs judge.url"),
        ({"judge": {"kind": "endpoint", "url": "localhost:80"}}, "judge.kind=endpoint needs judge.url"),
        ({"opening": "She is"}, r"must hold \{entity\}"),
        ({"entities": "e.jsonl"}, "needs factscore.knowledge"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FactScoreConfig.model_validate(settings)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text('{"entity": "Ada", "article": "a1"}\n\n{"entity": "Emil"}\n')
    with pytest.raises(InputError, match=r"e\.jsonl, line 3 needs `entity` and `article`"):
        read_entities(tmp_path / "e.jsonl", 5)
    (tmp_path / "k.jsonl").write_text('{"id": "a1", "title": "Ada", "text": " "}\n')
    with pytest.raises(InputError, match=r"k\.jsonl, line 1 needs `title` and `text`"):
        read_articles([tmp_path / "k.jsonl"], ["a1"])
    with pytest.raises(InputError, match=r"2 of 2 articles are in none of .*b1"):
        read_articles([tmp_path / "k.jsonl"], ["b1", "b2"])
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(InputError, match="names no entity"):
        read_entities(tmp_path / "none.jsonl", 5)


def test_a_model_writes_alone_and_as_a_cascade(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text('{"entity": "Zofia", "article": "z"}\n{"entity": "Jan", "article": "j"}\n')
    rows = [
        {"id": "z", "title": "Zofia", "text": "Zofia was a surgeon."},
        {"id": "j", "title": "Jan", "text": "Jan wove."},
    ]
    (tmp_path / "k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    room = len(TOKENS.encode(" a surgeon."))  # the helper's answer is all
    cfg = FactScoreConfig(
        entities=str(tmp_path / "e.jsonl"), knowledge=[str(tmp_path / "k.jsonl")], max_tokens=room, instruction="Bio. ",
    )  # fmt: skip
    helper = Told(lambda call: " a surgeon." if call.text.endswith(" is") else "")
    cascade = Cascade(
        speaker(TOKENS), TOKENS, helper, calibration(0.0, 1e-9), CascadeConfig(budget=1.01 / room, unit="entity")
    )
    found = run_factscore(cascade, TOKENS, cfg, CFG, tmp_path / "responses.jsonl")
    assert (found.alone.entities, found.alone.respond_ratio) == (2, 1.0)
    assert "sentences" in found.facts_by
    assert found.alone.score is not None
    assert found.cascade.score is not None
    lines = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert [(line["written_by"], line["entity"]) for line in lines] == [
        ("small", "Zofia"), ("small", "Jan"), ("cascade", "Zofia"), ("cascade", "Jan"),
    ]  # fmt: skip
    assert lines[2]["text"].startswith("Zofia is a surgeon.")
    assert lines[2]["facts"][0] == {"fact": "Zofia is a surgeon.", "supported": True}
    assert lines[3]["facts"][0]["supported"] is False
    # The instruction is read, and not judged.
    assert helper.calls[0].text.removeprefix("<|endoftext|>") == "Bio. Zofia is"
    again = write(cascade, TOKENS, cfg, ["Zofia"], 0.0)
    assert again == {"Zofia": lines[0]["text"]}


def test_clauses_of_real_sentences_have_their_subjects() -> None:
    pipeline = SHARED_DATA / "spacy/en_gum_sm"
    if not pipeline.exists():
        pytest.skip("needs ../shared/data")
    splitter = Clauses(str(pipeline))
    texts = ["He was born in Nuremberg and died at Wittenberg.",
             "George Major (April 25, 1502 – November 28, 1574) was a Lutheran theologian.",
             "Braun was born in Fulda, Germany, and educated at the University of Marburg."]  # fmt: skip
    assert splitter.facts(texts) == [
        ["He was born in Nuremberg.", "He died at Wittenberg."],
        ["George Major (April 25, 1502 – November 28, 1574).", "George Major was a Lutheran theologian."],
        ["Braun was born in Fulda, Germany.", "Braun was educated at the University of Marburg."],
    ]


def test_a_pipeline_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"facts\.factscore\.pipeline=en_no_such"):
        Clauses("en_no_such")


def test_the_local_judge_agrees_with_what_is_true_by_construction() -> None:
    if not SHARED_DATA.exists():
        pytest.skip("needs ../shared/data")
    from benchmarks.factscore import kinds

    shares = {
        kind: sum(verdict is True for verdict in LocalJudge(5).verdicts(statements)) / len(statements)
        for kind, _, statements in kinds(SHARED_DATA, 12, Sentences())
    }
    assert shares["clause of the article"] > 0.9
    assert shares["clause with a foreign year"] < 0.1
    assert shares["clause with a foreign name"] < 0.1
    assert shares["birth year in other words"] > 0.5
