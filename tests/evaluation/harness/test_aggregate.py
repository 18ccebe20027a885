"""The mean of centred scores, in which many paradigms are one task."""

import pytest

from components.evaluation.harness.aggregate import aggregate, centred_scores
from components.evaluation.score_table import Score


def row(model: str, task: str, score: float, format: str = "", metric: str = "centred") -> Score:
    return Score(model, task, "0", metric, score, format=format)


SCORES = [
    row("a", "blimp_agreement", 0.4),
    row("a", "blimp_islands", 0.8),
    row("a", "blimp_islands", 0.0),
    row("a", "blimp_islands", 1.0, metric="acc"),
    row("a", "mmlu_law", 0.2, "letter"),
    row("a", "mmlu_law", 0.1, "cloze"),
    row("a", "piqa", -0.1, "cloze"),
    row("b", "piqa", 0.5, "cloze"),
]


def test_parts_of_a_task_count_as_one_and_formats_apart() -> None:
    assert centred_scores(SCORES) == {
        "a": pytest.approx({"blimp": 0.4, "mmlu (letter)": 0.2, "mmlu (cloze)": 0.1, "piqa (cloze)": -0.1}),
        "b": {"piqa (cloze)": 0.5},
    }


def test_the_aggregate_is_the_mean_over_tasks() -> None:
    assert aggregate(SCORES) == {"a": pytest.approx((0.4 + 0.2 + 0.1 - 0.1) / 4), "b": 0.5}
    assert aggregate([]) == {}
