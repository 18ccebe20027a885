"""What a model says is judged: whether it ends, whether it is true, and what its helper adds."""

from collections import Counter
from pathlib import Path

import pytest

from components.cascade.calibration import Calibration
from components.cascade.decoding import CascadeAnswer, CascadeSummary, CascadeToken
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.data.world.comprehension import World
from components.data.world.config import WorldConfig
from components.data.world.facts import build
from components.data.world.questions import askable, exchange
from components.data.world.table import FactTable
from components.evaluation.questions import Question
from components.finetune.chat.artifact import Conversed
from components.finetune.chat.asking import Judge, judged, said
from components.finetune.chat.config import ConverseConfig, ConverseStageConfig
from components.finetune.chat.converse import MODEL, stage
from components.model.checkpoint import save_model
from components.model.config import ModelConfig
from components.training.trained import TrainedModel
from tests import fakes
from tests.finetune.chat.conftest import CONTEXT, DATA

TOKENS = fakes.tokenizer()


def answer(*ids: int) -> CascadeAnswer:
    tokens = tuple(CascadeToken(id, "small", 0.0, 0.0, 0.0, None) for id in ids)
    return CascadeAnswer(tokens, "stop", CascadeSummary(decisions=len(ids)))


@pytest.mark.parametrize(
    ("ids", "well_formed"),
    [
        ([*TOKENS.encode("In Lublin."), TOKENS.im_end_id], True),
        ([*TOKENS.encode("In Lublin.")], False),
        ([*TOKENS.encode("In Lublin."), TOKENS.end_of_text_id], False),
        ([TOKENS.im_end_id], False),
        ([*TOKENS.encode(" \n"), TOKENS.im_end_id], False),
        ([*TOKENS.encode("In"), TOKENS.im_start_id, *TOKENS.encode(" Lublin."), TOKENS.im_end_id], False),
    ],
)
def test_an_answer_is_well_formed_if_it_ends_by_itself_and_is_text(ids: list[int], well_formed: bool) -> None:
    assert said(TOKENS, "model", 0.0, "Where?", answer(*ids)).well_formed is well_formed


def test_the_sentence_of_the_corpus_is_right_and_another_value_is_wrong(prepared: PreparedData) -> None:
    assert prepared.fact_table is not None
    judge = Judge(World.load(prepared.fact_table))
    subjects = build(DATA.world)
    person = next(each for each in subjects if each.kind == "person" and "death_year" in each.values)
    written = exchange(person, "death_year").as_question(Counter())
    question = Question.model_validate(written._asdict())
    year = int(str(person.values["death_year"]))
    for text, right, wrong in (
        (f"He died in the year {year}.", True, False),
        (f"He died in the year {year + 1}.", False, True),
        ("Nobody knows.", False, False),
    ):
        spoken = said(TOKENS, "model", 0.0, question.question, answer(*TOKENS.encode(text), TOKENS.im_end_id))
        found = judged(judge, question, spoken)
        assert (found.right, found.wrong) == (right, wrong), text


def test_the_helper_knows_what_every_question_asks_for() -> None:
    subjects = build(WorldConfig(entities=60))
    world = World(FactTable(subjects))
    for subject in subjects:
        for relation in askable(subject):
            found = exchange(subject, relation)
            value = next(span for span in found.spans if span.fact == f"{subject.id}.{relation}")
            text = f"user\n{found.question}\nassistant\n{found.sentence[: value.start].rstrip()}"
            told = world.next_value(text)
            assert told is not None, text
            assert found.sentence[value.start :].startswith(told.text.strip().split()[0]), text


def test_a_model_is_asked_at_every_budget_beside_its_base(prepared: PreparedData, chats: Chats, tmp_path: Path) -> None:
    tokenizer = chats.tokenizer()
    shape = ModelConfig(name="tiny", layers=1, width=16, hidden_width=32, heads=2, kv_heads=1, context_length=CONTEXT)
    model = _trained(tmp_path / "model", tokenizer, shape)
    calibration = Run.local(tmp_path / "calibrate", "calibrate")
    fakes.calibration().save(calibration.folder / Calibration.RECORD)
    config = ConverseStageConfig(
        measure=ConverseConfig(max_questions=12, answer_tokens=20, budgets=[0.5], max_documents=2, resamples=100)
    )
    found = stage(
        Run.local(tmp_path / "converse", "converse"),
        config,
        model=model,
        base=model,
        chats=chats,
        prepared=prepared,
        calibration=calibration.seal({}, view=Calibration),
    )
    results = found.results()
    assert [each.budget for each in results.standings] == [0.0, 0.0, 0.15, 0.5]
    assert results.at(0.0).calls == 0.0 < results.at(0.15).calls < results.at(0.5).calls
    assert results.forgetting.growth == 0.0, "a model compared with itself has forgotten nothing"
    assert found.metrics["right_base"] == results.standings[0].right.estimate  # type: ignore[union-attr]
    assert {answer.model for answer in found.answers()} > {MODEL}
    assert len(found.answers()) == 4 * 12
    page = found.path(Conversed.PAGE).read_text()
    assert "What asking is worth" in page
    assert "Examples" in page


def _trained(folder: Path, tokenizer: TextTokenizer, shape: ModelConfig) -> TrainedModel:
    run = Run.local(folder, "chat")
    save_model(fakes.speaker(tokenizer, shape=shape), run.folder / TrainedModel.MODEL, tokenizer.special)
    return run.seal({}, {}, view=TrainedModel)
