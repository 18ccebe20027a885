from pathlib import Path

import pytest
import torch

from components.core.errors import ArtifactError
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.evaluation.config import BootstrapConfig
from components.evaluation.questions import Question, answer_questions, begins_with, exact_match, read_questions
from components.evaluation.results import Answer
from components.model.generate import Sampling, generate
from components.model.transformer import Transformer
from tests.evaluation.conftest import SHAPE, TOWNS

CFG = BootstrapConfig(resamples=500)


def questions(prepared: PreparedData) -> list[Question]:
    return read_questions(prepared.questions, 100)


def answered(correct: bool, stated: int) -> Answer:
    return Answer(id="q", question="?", prompt="p", expected="a", written="w", correct=correct, stated=stated)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (" Orlen and worked", "Orlen", True),
        (" ORLEN, a town", "Orlen", True),
        ("“Orlen”", "orlen.", True),
        (" 1987 in Bree", "1987", True),
        (" the North Gate.", "the north gate", True),
        (" Saint-Malo", "Saint Malo", True),
        (" Ｏｒｌｅｎ", "Orlen", True),
        (" 19870", "1987", False),
        (" Orlenberg", "Orlen", False),
        (" the town of Orlen", "Orlen", False),
        (" Or", "Orlen", False),
        ("", "Orlen", False),
        ("anything", "...", False),
    ],
)
def test_an_answer_is_right_if_the_text_begins_with_its_words(text: str, answer: str, right: bool) -> None:
    assert begins_with(text, answer) is right


def test_a_model_that_learned_the_facts_answers_and_an_untrained_one_does_not(
    prepared: PreparedData, tokenizer: TextTokenizer, trained: Transformer, untrained: Transformer
) -> None:
    learned = answer_questions(trained, tokenizer, questions(prepared))
    assert [answer.expected for answer in learned] == TOWNS
    assert sum(answer.correct for answer in learned) >= 6
    assert not any(answer.correct for answer in answer_questions(untrained, tokenizer, questions(prepared)))


def test_batched_answers_equal_greedy_generation_one_by_one(
    prepared: PreparedData, tokenizer: TextTokenizer, trained: Transformer
) -> None:
    """The prompts differ in length, so that they fall into several batches."""
    asked = questions(prepared)
    assert len({len(tokenizer.encode(question.prompt)) for question in asked}) > 1
    for answer in answer_questions(trained, tokenizer, asked, batch_questions=3):
        stop = frozenset({tokenizer.end_of_text_id})
        sampling = Sampling(temperature=0, max_tokens=20, stop_ids=stop, suppress_ids=frozenset({tokenizer.call_id}))
        prompt = [tokenizer.end_of_text_id, *tokenizer.encode(answer.prompt)]
        alone = tokenizer.decode([step.token for step in generate(trained, prompt, sampling)])
        assert answer.written
        assert alone.startswith(answer.written)


def test_a_model_that_would_rather_call_is_made_to_answer(
    prepared: PreparedData, tokenizer: TextTokenizer, trained: Transformer
) -> None:
    calling = Transformer(SHAPE, tokenizer.vocab_size).eval()
    calling.load_state_dict(trained.state_dict())
    with torch.no_grad():
        prompt = torch.tensor([[tokenizer.end_of_text_id, *tokenizer.encode("Ada was born in")]])
        calling.output_weight[tokenizer.call_id] = 1000 * trained(prompt)[0, -1]
        assert calling.logits(calling(prompt))[0, -1].argmax() == tokenizer.call_id
    asked = questions(prepared)[:1]
    assert answer_questions(calling, tokenizer, asked) == answer_questions(trained, tokenizer, asked)


def test_an_alias_counts_and_space_after_the_prompt_does_not(
    prepared: PreparedData, tokenizer: TextTokenizer, trained: Transformer
) -> None:
    asked = questions(prepared)[0]
    [plain] = answer_questions(trained, tokenizer, [asked])
    changed = asked.model_copy(update={"answer": "Nowhere", "aliases": ["Orlen"], "prompt": asked.prompt + "  "})
    [again] = answer_questions(trained, tokenizer, [changed])
    assert plain.correct
    assert again.correct
    assert again.written[:6] == plain.written[:6]


def test_a_prompt_longer_than_the_context_keeps_its_end(
    prepared: PreparedData, tokenizer: TextTokenizer, trained: Transformer
) -> None:
    asked = questions(prepared)[0]
    long = asked.model_copy(update={"prompt": "Fay was born in Ostrel and worked as a smith. " * 20 + asked.prompt})
    assert len(tokenizer.encode(long.prompt)) > SHAPE.context_length
    [answer] = answer_questions(trained, tokenizer, [long])
    assert answer.correct


def test_head_and_tail_split_at_the_median() -> None:
    answers = [answered(stated > 5, stated) for stated in range(1, 11)]
    result = exact_match(answers, CFG)
    assert result["all"].share.estimate == pytest.approx(0.5)
    assert (result["head"].questions, result["head"].share.estimate) == (5, 1.0)
    assert (result["tail"].questions, result["tail"].share.estimate) == (5, 0.0)
    assert 0 < result["all"].share.low < 0.5 < result["all"].share.high < 1


def test_facts_stated_equally_often_have_no_head() -> None:
    assert exact_match([answered(True, 3)] * 4, CFG).keys() == {"all", "tail"}
    assert exact_match([], CFG) == {}


def test_the_limit_chooses_the_same_questions_every_time(prepared: PreparedData) -> None:
    path = prepared.questions
    three = read_questions(path, 3)
    assert len(three) == 3
    assert three == read_questions(path, 3)
    assert read_questions(path, 0) == []


def test_a_line_that_is_no_question_is_named(tmp_path: Path, prepared: PreparedData) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(prepared.questions.read_bytes() + b'{"id": "q9"}\n')
    with pytest.raises(ArtifactError, match=r"questions\.jsonl, line 9 is not a question"):
        read_questions(path, 100)
