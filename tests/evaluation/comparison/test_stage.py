"""Models side by side: what differs is found, what is noise is not, and what cannot be compared is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from components.core.artifact import REPORT, Artifact
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.evaluation.artifacts import Evaluation
from components.evaluation.comparison.artifact import Comparison
from components.evaluation.comparison.config import ComparisonConfig
from components.evaluation.comparison.directions import NOT_COMPARED, direction
from components.evaluation.comparison.results import Finding
from components.evaluation.comparison.stage import stage
from components.evaluation.score_table import Score, table, write_scores
from components.evaluation.text import ACCURACY, CONFIDENCE, CONTINUATION

CFG = ComparisonConfig(resamples=1000)


def evaluation(folder: Path, scores: Sequence[Score]) -> Artifact:
    run = Run.local(folder, "evaluate")
    write_scores(folder / Evaluation.SCORES, table(scores))
    return run.seal({})


def questions(model: str, right: Sequence[bool], task: str = "boolq") -> list[Score]:
    return [
        Score(model, task, f"q{number}", "right", float(each), tokens=10, calls=1, seconds=0.5, detail=f"says {each}")
        for number, each in enumerate(right)
    ]


def text(model: str, factor: float, seed: int) -> list[Score]:
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    bits = shared.gamma(5, 100, 120) * own.normal(factor, 0.02, 120)
    return [Score(model, "wiki", f"d{number}", "bits_per_byte", each, 400.0) for number, each in enumerate(bits)]


def compare(folder: Path, *models: Sequence[Score], cfg: ComparisonConfig = CFG) -> Comparison:
    inputs = {f"evaluation_{n}": evaluation(folder / f"evaluation-{n}", each) for n, each in enumerate(models)}
    return stage(Run.local(folder / "compare", "compare"), cfg, **inputs)


def by_metric(comparison: Comparison) -> dict[str, Finding]:
    return {f"{each.model} {each.metric}": each for each in comparison.results().findings}


def test_what_differs_is_found_and_noise_is_not(tmp_path: Path) -> None:
    half = [True, False] * 100
    found = by_metric(
        compare(
            tmp_path,
            [*text("plain", 1.0, 1), *questions("plain", half)],
            [*text("worse", 1.02, 2), *questions("worse", [True] * 30 + half[30:])],
            [*text("same", 1.0, 3), *questions("same", half[1:] + half[:1])],
        )
    )
    assert found["worse bits_per_byte"].verdict == "worse"
    assert found["worse bits_per_byte"].difference.low > 0
    assert found["worse right"].verdict == "better"
    assert found["worse right"].test == "sign"
    assert found["worse right"].p_value == pytest.approx(2**-14)  # fifteen gained, none lost
    assert found["same bits_per_byte"].verdict == found["same right"].verdict == "undecided"
    assert found["worse right"].corrected == pytest.approx(4 * 2**-14)  # the smallest of four p-values
    assert all(each.detectable and each.detectable > 0 for each in found.values())


def test_the_first_model_is_the_one_that_others_are_compared_with(tmp_path: Path) -> None:
    one, other = text("a", 1.0, 1), text("b", 1.05, 2)
    forth = by_metric(compare(tmp_path / "forth", one, other))["b bits_per_byte"]
    back = by_metric(compare(tmp_path / "back", other, one))["a bits_per_byte"]
    assert (forth.verdict, back.verdict) == ("worse", "better")
    assert forth.difference.estimate == pytest.approx(-back.difference.estimate)
    assert forth.value == back.value_against


def test_examples_that_changed_are_kept_with_what_each_model_said(tmp_path: Path) -> None:
    comparison = compare(
        tmp_path, questions("a", [True, True, False, False, True]), questions("b", [True, False, True, True, True])
    )
    changes = {each.document: each for each in comparison.changes()}
    assert {name: each.gain for name, each in changes.items()} == {"q1": -1.0, "q2": 1.0, "q3": 1.0}
    assert (changes["q1"].said, changes["q1"].said_against) == ("says False", "says True")
    assert comparison.results().counts == {"b: boolq (right)": (2, 1)}
    report = (comparison.folder / REPORT).read_text()
    assert "b won 2 and lost 1 against a" in report
    assert "says False | says True" in report


def test_what_a_model_says_cannot_break_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> | ![x](http://evil) \n# Title"
    answers = [
        [Score(name, "t", f"d{n}", "right", float((n + even) % 2), detail=evil) for n in range(12)]
        for even, name in enumerate("ab")
    ]
    comparison = compare(tmp_path, *answers)
    report, page = comparison.report.read_text(), comparison.path(Comparison.PAGE).read_text()
    assert "\\<script\\>alert" in report
    assert " <script" not in report
    assert "![x](" not in report
    assert "\n# Title" not in report
    assert "&lt;script&gt;alert" in page
    assert "<script" not in page


def test_the_cost_counts_an_example_once_whatever_is_measured_on_it(tmp_path: Path) -> None:
    several = [
        each
        for score in questions("a", [True, False])
        for each in (score, Score("a", "boolq", score.document, "acc_norm", 1.0, tokens=10, calls=1, seconds=0.5))
    ]
    energy = Score("a", "boolq", "piece", "joules", 7.0, 0.0)
    other = [Score("b", each.task, each.document, each.metric, 0.0) for each in several]
    results = compare(tmp_path, [*several, energy], other).results()
    spent, free = results.spent
    assert (spent.examples, spent.tokens, spent.calls, spent.seconds, spent.joules) == (2, 20, 2, 1.0, 7.0)
    assert free.joules is None
    assert all(each.metric != "joules" for each in results.findings)


def test_every_format_has_a_line_of_its_own(tmp_path: Path) -> None:
    def answers(model: str, letter: float, cloze: float) -> list[Score]:
        values = {"letter": letter, "cloze": cloze}
        return [
            Score(model, "mmlu", f"d{n}", "acc", each, format=way) for n in range(20) for way, each in values.items()
        ]

    comparison = compare(tmp_path, answers("a", 0.0, 1.0), answers("b", 1.0, 1.0))
    found = {each.format: each for each in comparison.results().findings}
    assert (found["letter"].verdict, found["cloze"].verdict) == ("better", "undecided")
    assert {each.format for each in comparison.changes()} == {"letter"}


def test_a_share_of_nothing_is_left_open(tmp_path: Path) -> None:
    def calls(model: str, each: float) -> list[Score]:
        return [Score(model, "t", f"d{n}", "wasted_calls", 0.0, each) for n in range(5)] + questions(model, [True] * 5)

    results = compare(tmp_path, calls("plain", 0.0), calls("cascade", 3.0)).results()
    assert results.values["t (wasted_calls)"] == {"plain": None, "cascade": 0.0}
    assert [each.metric for each in results.findings] == ["right"]


def test_a_metric_without_a_direction_gets_no_verdict(tmp_path: Path) -> None:
    def lengths(model: str, each: float) -> list[Score]:
        return [Score(model, "t", f"d{n}", "characters", each + n) for n in range(50)]

    comparison = compare(tmp_path, lengths("a", 10), lengths("b", 90))
    (found,) = comparison.results().findings
    assert (found.verdict, found.difference.estimate) == ("no direction", 80)
    assert comparison.changes() == []


def test_examples_that_only_one_has_are_left_out_and_counted(tmp_path: Path) -> None:
    (found,) = compare(tmp_path, questions("a", [True] * 30), questions("b", [True] * 20)).results().findings
    assert (found.documents, found.unpaired) == (20, 10)


def test_two_models_of_one_name_are_told_apart_by_their_keys(tmp_path: Path) -> None:
    first, second = questions("lacewing", [True] * 9), questions("lacewing", [False] * 9)
    with pytest.raises(InputError, match="the same evaluation is given twice"):
        compare(tmp_path, first, second)  # made by hand, without keys of their own


def test_fewer_than_two_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two models; given: a"):
        compare(tmp_path, questions("a", [True]))


def test_different_tasks_are_refused_with_what_is_missing_and_can_be_narrowed(tmp_path: Path) -> None:
    one = [*questions("a", [True] * 9), *questions("a", [True] * 9, "piqa")]
    other = [*questions("b", [True] * 9), *questions("b", [True] * 9, "copa")]
    with pytest.raises(InputError, match=r"a lacks copa; b lacks piqa.*compare\.tasks=\[boolq\]"):
        compare(tmp_path / "all", one, other)
    narrowed = compare(tmp_path / "one", one, other, cfg=CFG.model_copy(update={"tasks": ["boolq"]}))
    assert [each.task for each in narrowed.results().findings] == ["boolq"]
    with pytest.raises(InputError, match="a lacks arc; b lacks arc"):
        compare(tmp_path / "none", one, other, cfg=CFG.model_copy(update={"tasks": ["boolq", "arc"]}))


def test_the_same_task_on_other_data_is_refused(tmp_path: Path) -> None:
    other = [Score("b", "boolq", f"other{n}", "right", 1.0) for n in range(9)]
    with pytest.raises(InputError, match="share no example of boolq"):
        compare(tmp_path, questions("a", [True] * 9), other)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused_by_name(tmp_path: Path, score: float) -> None:
    broken = [Score("b", "boolq", "q0", "right", score)]
    with pytest.raises(ArtifactError, match="b has no finite right on 'q0' of boolq"):
        compare(tmp_path, questions("a", [True]), broken)


def test_an_example_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    twice = questions("b", [True]) * 2
    with pytest.raises(ArtifactError, match=r"two scores for boolq \(right\) on 'q0'"):
        compare(tmp_path, questions("a", [True]), twice)


def test_an_evaluation_without_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no scores"):
        compare(tmp_path, questions("a", [True]), [])


def test_parts_of_a_calibration_and_samples_are_not_compared() -> None:
    assert set(NOT_COMPARED) == {ACCURACY, CONFIDENCE, CONTINUATION}


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        ("bits_per_byte_factual", "lower"),
        ("acc_norm", "higher"),
        ("accuracy", None),
        ("facts_right", "higher"),
        ("wasted_calls", "lower"),
        ("win", "higher"),
        ("windows", None),
        ("call_mass", None),
    ],
)
def test_the_direction_of_a_metric_is_known_by_its_whole_words(metric: str, better: str | None) -> None:
    assert direction(metric) == better
