"""What people see of an answer: who wrote what, and whether it is true."""

from pathlib import Path

import pytest

from components.cascade.authors import AuthorSpan, author_spans
from components.core.run import Run
from components.deployment.showcase import NOT_CHECKED, NOTHING_STATED, asked_and_answered, marked, prompts_of, truth
from components.evaluation.artifacts import Scores
from components.evaluation.results import Answer, Sample
from tests.deployment.conftest import Delegated, Fact


def spans(*pieces: tuple[str, str]) -> list[AuthorSpan]:
    return author_spans(pieces)  # type: ignore[arg-type]


def test_the_helpers_words_stand_between_marks_and_the_spaces_around_them_outside() -> None:
    answer = spans(("helper", " Brack water"), ("small", ".\n\nShe died in"), ("helper", " 1801"), ("small", "."))
    assert marked(answer) == "‹Brack water›. She died in ‹1801›."
    assert marked(spans(("small", " plain [1] text"), ("helper", " "))) == "plain [1] text"


def test_a_helper_that_wrote_nothing_but_spaces_has_not_answered() -> None:
    assert asked_and_answered(spans(("small", "a"), ("helper", " b")))
    assert not asked_and_answered(spans(("small", "a"), ("helper", " ")))
    assert not asked_and_answered([])


def test_an_answer_is_looked_up_and_only_what_it_states_itself_counts(delegated: Delegated, fact: Fact) -> None:
    facts = delegated.prepared.fact_table
    assert truth(fact.prompt, f"{fact.value}. It", False, facts) == "yes, 1 of 1 facts, looked up"
    wrong = truth(fact.prompt, " Wrongwater. It", False, facts)
    assert wrong == "no, 0 of 1 facts, looked up; wrong: Wrongwater"
    assert truth(f"{fact.prompt}{fact.value}.", " Of course.", True, facts) == NOTHING_STATED
    assert truth(fact.prompt, fact.value[:-2], False, facts) == NOTHING_STATED  # the limit cut the word
    assert truth(fact.prompt, fact.value, False, None) == NOT_CHECKED


@pytest.mark.parametrize(("asks", "expected"), [(True, ["Wrong", "Right", "Start"]), (False, ["Right", "Start"])])
def test_prompts_come_in_the_order_of_the_assessment_each_once(tmp_path: Path, asks: bool, expected: list[str]) -> None:
    run = Run.local(tmp_path, "assess")
    answers = [
        Answer(id="q", question="Who?", prompt=prompt, expected="x", written="y", correct=prompt == "Right", stated=1)
        for prompt in ("Wrong", " ", "Right", "Wrong")
    ]
    samples = [Sample(prompt=prompt, continuation="", original="") for prompt in ("Start", "Right")]
    (run.folder / Scores.ANSWERS).write_text("\n".join(answer.model_dump_json() for answer in answers))
    (run.folder / Scores.SAMPLES).write_text("\n".join(sample.model_dump_json() for sample in samples))
    assert prompts_of(run.seal({}, view=Scores), asks) == expected
