"""Which examples of a task the training text holds."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.data.prepared import PreparedData
from components.evaluation.contamination.config import ContaminationConfig
from components.evaluation.contamination.examples import compared, contaminated_examples, contamination_scores
from components.evaluation.contamination.words import words

CFG = ContaminationConfig()
_RANDOM = Random(0)
WORDS = ["".join(_RANDOM.choices("abcdefghijklmnop", k=6)) for _ in range(3000)]


def text(seed: int, count: int = 60) -> str:
    return " ".join(Random(seed).choices(WORDS, k=count))


TRAINING = [text(seed) for seed in range(50)]


def test_a_shared_run_of_thirteen_words_is_found_whatever_the_case_and_the_punctuation() -> None:
    run = TRAINING[7].split()[20:33]
    told = f"{text(900, 9)}, {', '.join(run).upper()}! {text(901, 9)}"
    short = f"{text(902, 9)} {' '.join(run[:12])} {text(903, 9)}"
    found = compared(iter(TRAINING), {"task": [("told", told), ("short", short)]}, CFG)["task"]
    assert [each.contaminated for each in found] == [True, False]
    assert found[0].run == " ".join(run)
    assert found[0].run_document == 7
    assert json.loads(found[0].words) == {"run": " ".join(run), "run_document": 7}


@settings(max_examples=20)
@given(st.integers(0, 49), st.integers(0, 47), st.integers(0, 20), st.integers(0, 20))
def test_a_run_is_found_wherever_it_stands(document: int, start: int, before: int, after: int) -> None:
    run = TRAINING[document].split()[start : start + 13]
    example = " ".join([*text(1000, before).split(), *run, *text(1001, after).split()])
    (found,) = compared(iter(TRAINING), {"task": [("id", example)]}, CFG)["task"]
    assert found.contaminated


def test_a_run_does_not_reach_from_one_document_into_the_next() -> None:
    example = " ".join(TRAINING[3].split()[-7:] + TRAINING[4].split()[:7])
    (found,) = compared(iter(TRAINING), {"task": [("id", example)]}, CFG)["task"]
    assert not found.contaminated


def test_a_shorter_example_is_looked_for_as_a_whole_and_one_too_short_cannot_be_told() -> None:
    start = TRAINING[0].split()
    examples = [("ten", " ".join(start[:10])), ("other", text(950, 10)), ("tiny", " ".join(start[:7]))]
    found = compared(iter(TRAINING), {"task": examples}, CFG)["task"]
    assert [(each.contaminated, each.comparable) for each in found] == [(True, True), (False, True), (False, False)]
    rows = contamination_scores("model", "task", found)
    assert [(row.score, row.weight) for row in rows] == [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)]
    assert {row.metric for row in rows} == {"contaminated"}
    assert rows[2].detail == "too short to tell"


def test_a_paragraph_with_a_changed_word_in_each_run_is_a_near_duplicate() -> None:
    paragraph = text(800, 200).split()
    altered = list(paragraph)
    altered[6::12] = [f"changed{place}" for place in range(len(altered[6::12]))]
    example = "A question?\n" + " ".join(altered)
    document = f"{text(801)}\n{' '.join(paragraph)}\n{text(802)}"
    lenient = ContaminationConfig(similarity=0.3)
    for cfg, expected in ((lenient, True), (CFG, False)):
        (found,) = compared(iter([*TRAINING, document]), {"task": [("id", example)]}, cfg)["task"]
        assert found.run_document is None, "no run of thirteen words is left"
        assert (found.similar_document == 50) is expected
        assert found.contaminated is expected
    kept = sum(all(word == paragraph[at + k] for k, word in enumerate(altered[at : at + 5])) for at in range(196))
    (found,) = compared(iter([document]), {"task": [("id", example)]}, lenient)["task"]
    assert found.similarity == pytest.approx(kept / (2 * 196 - kept), abs=0.01)


def test_tasks_are_compared_in_one_pass_and_keep_their_order() -> None:
    passes = iter(TRAINING)
    tasks = {"one": [("a", text(700)), ("b", TRAINING[1])], "none": [], "two": [("a", TRAINING[2])]}
    found = compared(passes, tasks, CFG)
    assert next(passes, None) is None
    assert [[each.id for each in found[task]] for task in tasks] == [["a", "b"], [], ["a"]]
    assert [each.contaminated for each in (*found["one"], *found["two"])] == [False, True, True]


def test_only_the_training_split_counts(prepared: PreparedData) -> None:
    train = next(iter(prepared.texts("train", [3])))
    fresh = text(600)
    found = contaminated_examples(prepared, {"task": [("seen", train), ("fresh", fresh)]}, CFG)["task"]
    assert [each.contaminated for each in found] == [True, False]
    assert found[0].run_document is not None


def test_words_are_runs_of_letters_and_digits() -> None:
    assert words("It's 3.14 - naïve_ÉTÉ\n「東京」") == ["it", "s", "3", "14", "naïve", "été", "東京"]


def test_a_minimum_above_the_length_of_a_run_is_refused() -> None:
    with pytest.raises(ValidationError, match="shortest_words=9 must be at most run_words=8"):
        ContaminationConfig(run_words=8, shortest_words=9)
