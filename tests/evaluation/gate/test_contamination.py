"""What the gate judges on must not be in the training text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from components.core.run import Run
from components.data.config import DataConfig
from components.data.prepare import stage as prepare
from components.data.prepared import PreparedData
from components.data.shards import ShardWriter
from components.data.world.config import WorldConfig
from components.evaluation.config import GateConfig
from components.evaluation.gate.contamination import contamination
from components.evaluation.gate.documents import Document, held_out_documents
from components.evaluation.gate.verdict import decide
from components.evaluation.questions import Question, read_questions
from tests.evaluation.gate.test_verdict import evidence

CFG = GateConfig(resamples=100)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    run = Run.local(tmp_path_factory.mktemp("prepare"), "prepare")
    return prepare(run, DataConfig(sources=["world"], vocab_size=1024, world=WorldConfig(entities=100)))


@pytest.fixture(scope="module")
def documents(world: PreparedData) -> list[Document]:
    return held_out_documents(world, None, CFG)


@pytest.fixture(scope="module")
def questions(world: PreparedData) -> list[Question]:
    assert world.questions is not None
    return read_questions(world.questions, 50)


def trained_on(folder: Path, world: PreparedData, texts: Sequence[str]) -> PreparedData:
    """The world's tokenizer and test split, with other training text."""
    run = Run.local(folder, "prepare")
    (run.folder / PreparedData.TOKENIZER).symlink_to(world.tokenizer_folder.resolve())
    tokenizer = world.tokenizer()
    with ShardWriter(run.folder / PreparedData.SHARDS, tokenizer.vocab_size, tokenizer.end_of_text_id) as writer:
        for text in texts:
            writer.add("train", tokenizer.encode(text), len(text.encode()))
    return PreparedData(run.folder, world.record)


def test_the_closed_world_is_clean_although_its_templates_repeat(
    world: PreparedData, documents: list[Document], questions: list[Question]
) -> None:
    found = contamination(world, documents, questions, CFG)
    assert found["contaminated"].value == 0.0
    assert found["contaminated_questions"].value == 0.0
    assert decide({**evidence(), **found}, None, CFG).promote


def test_copies_with_a_few_changes_are_refused_by_name(
    tmp_path: Path, world: PreparedData, documents: list[Document], questions: list[Question]
) -> None:
    copies = [documents[0].text.replace("a", "an", 1), documents[1].text + " The end."]
    seen = trained_on(tmp_path / "copies", world, ["Something else altogether.", *copies])
    found = contamination(seen, documents, questions, CFG)
    assert found["contaminated"].numerator.tolist() == [1.0, 1.0, *[0.0] * (len(documents) - 2)]
    verdict = decide({**evidence(), **found}, evidence(seed=1), CFG)
    assert verdict.outcome == "refuse"
    assert "have a near-duplicate in the training text" in verdict.reason
    assert "at most 5.0% is allowed" in verdict.reason
    assert f"{documents[1].name} is " in verdict.reason
    assert "the same as train 2" in verdict.reason


def test_a_question_that_stands_in_the_training_text_is_refused_but_its_answer_is_not(
    tmp_path: Path, world: PreparedData, documents: list[Document], questions: list[Question]
) -> None:
    asked = [f"Quiz. {each.question} {each.answer}." for each in questions[:10]]
    told = [f"{each.prompt} {each.answer}." for each in questions[10:]]
    seen = trained_on(tmp_path / "quiz", world, [*told, *asked])
    found = contamination(seen, documents, questions, CFG)
    assert found["contaminated_questions"].numerator.tolist() == [1.0] * 10 + [0.0] * 40
    verdict = decide({**evidence(), **found}, None, CFG)
    assert verdict.outcome == "refuse"
    assert "questions that the training text holds 20.0%, at most 5.0% is allowed" in verdict.reason
    assert f"{questions[0].id} is word for word in train 40" in verdict.reason
    assert verdict.reason.endswith("and 7 more")


def test_a_person_may_allow_it_or_not_look(tmp_path: Path, world: PreparedData, documents: list[Document]) -> None:
    seen = trained_on(tmp_path / "all", world, [document.text + " The end." for document in documents])
    found = contamination(seen, documents, [], CFG)
    assert found["contaminated"].value == 1.0
    assert found.keys() == {"contaminated"}
    allowed = GateConfig.model_validate({"resamples": 100, "criteria": {"contaminated": {"at_most": 1.0}}})
    assert decide({**evidence(), **found}, None, allowed).promote
    assert contamination(seen, documents, [], CFG.model_copy(update={"contamination_tokens": 0})) == {}


def test_contamination_cannot_decide() -> None:
    with pytest.raises(ValueError, match="contamination is a property of the data"):
        GateConfig.model_validate({"criteria": {"contaminated": {"role": "decides"}}})


def test_a_metric_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="facts_rihgt"):
        GateConfig.model_validate({"criteria": {"facts_rihgt": {"role": "decides"}}})


def test_every_example_is_kept(world: PreparedData, documents: list[Document], questions: list[Question]) -> None:
    found = contamination(world, documents, questions, CFG)
    assert found["contaminated"].examples == tuple(document.name for document in documents)
    assert found["contaminated_questions"].examples == tuple(question.id for question in questions)
    assert np.isfinite(found["contaminated"].denominator).all()
