"""Calculations in given and in own solutions, judged by arithmetic; calls counted in all of a solution."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.cascade.config import CascadeConfig, HelperConfig
from components.cascade.decoding import Cascade
from components.cascade.helpers.base import Helper
from components.cascade.helpers.calculator import CalculatorHelper
from components.core.errors import InputError
from components.data.tokenizer import TextTokenizer, train_tokenizer
from components.evaluation.config import CalculationsConfig, FactsConfig
from components.evaluation.factuality.calculations import Problem, read_problems, run_calculations
from components.evaluation.factuality.real_text import CalculationResults, SolvedProblem
from components.evaluation.factuality.real_text_report import calculations_section
from tests.fakes import Told, calibration, speaker

PROBLEMS = [
    {
        "question": f"Ada has {i} pens and buys <<as>> many. How many has she?",
        "answer": f"She has {i}+{i} = <<{i}+{i}={2 * i}>>{2 * i} pens. Half: <<{2 * i}/2={i}.0>>{i}.\n#### {i}",
    }
    for i in range(60, 64)
]
TEXTS = [f"{row['question']}\n{row['answer']}" for row in PROBLEMS]
OTHER = "The quick brown fox jumps over the lazy dog while sphinxes of black quartz judge my vow, and five wizards box."
TOKENS = TextTokenizer(train_tokenizer([*TEXTS, OTHER] * 3, 320))
MODEL = speaker(TOKENS)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def measured(folder: Path, helper: Helper, budget: float, **settings: Any) -> CalculationResults:
    config = CascadeConfig(helper=HelperConfig(kind="calculator"), unit="entity", budget=budget, **settings)
    cascade = Cascade(MODEL, TOKENS, helper, calibration(), config, shared_rule=True)
    cfg = CalculationsConfig(file=str(write(folder / "p.jsonl", *PROBLEMS)), written=3, written_tokens=24)
    return run_calculations(cascade, TOKENS, cfg, FactsConfig(resamples=100), folder / "own.jsonl")


def test_asked_everywhere_the_calculator_makes_all_results_right(tmp_path: Path) -> None:
    found = measured(tmp_path, CalculatorHelper(TOKENS), 1.0)
    assert (found.problems, found.calculations) == (4, 8)
    assert (found.alone.estimate, found.cascade.estimate, found.called) == (0.0, 1.0, 1.0)
    assert found.calls == 1.0
    # A decision for each token but those that the calculator writes behind the first of a result; two calls answered.
    decisions = 0
    for row in PROBLEMS:
        problem = Problem(row["question"], row["answer"])
        ids = TOKENS.encode(problem.text)
        decisions += len(ids) - len(TOKENS.encode(problem.prompt))
        decisions -= sum(len(TOKENS.encode(f"{each.result}>>")) - 1 for each in problem.calculations)
    assert found.wasted == pytest.approx(1 - 8 / decisions)


def test_with_no_budget_nothing_is_asked(tmp_path: Path) -> None:
    told = Told("1>>")
    found = measured(tmp_path, told, 0.0)
    assert (found.calls, found.wasted, found.called) == (0.0, 0.0, 0.0)
    assert found.cascade == found.alone
    assert not told.calls


def test_the_budget_is_a_share_of_the_tokens_of_the_solutions(tmp_path: Path) -> None:
    found = measured(tmp_path, Told(""), 0.1)
    assert found.calls == pytest.approx(0.1, abs=0.02)
    assert found.wasted == 1.0


def test_calls_below_the_least_probability_are_left_out(tmp_path: Path) -> None:
    found = measured(tmp_path, CalculatorHelper(TOKENS), 0.5, least_call_probability=1.0)
    assert (found.calls, found.called, found.written_cascade and found.written_cascade.calls) == (0.0, 0.0, 0.0)


def test_results_are_judged_by_value(tmp_path: Path) -> None:
    doubled = Told(lambda call: f"0{2 * int(call.text[-3:-1])}.00>>" if call.text[-4] == "+" else "1>>")
    assert measured(tmp_path, doubled, 1.0).cascade.estimate == 0.5


def test_what_the_model_writes_itself_is_kept_and_judged(tmp_path: Path) -> None:
    told = Told("<<1+1=2>><<1+1=3>>#### 60")
    found = measured(tmp_path, told, 1.0)
    assert found.written_cascade is not None
    assert found.written_alone is not None
    assert (found.written_alone.calculations, found.written_alone.right, found.written_alone.solved) == (0, None, 0.0)
    lines = [SolvedProblem.model_validate_json(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    assert [line.solution for line in lines] == [each.solution for each in read_problems(tmp_path / "p.jsonl", 4)[:3]]
    right, wrong = (sum(line.cascade.count(f"<<1+1={each}>>") for line in lines) for each in (2, 3))
    assert wrong == 3
    assert found.written_cascade.right is not None
    assert found.written_cascade.right.estimate == pytest.approx(right / (right + wrong))
    assert (
        found.written_cascade.solved
        == sum("#### 60" in line.cascade and "#### 60" in line.solution for line in lines) / 3
    )
    assert (found.written_cascade.calls, found.written_cascade.wasted) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"question": "1+1?"},
            r"line 2 is no problem: it needs `question` and `answer`, two texts; it has \['question'\]",
        ),
        ({"question": "1+1?", "answer": 2}, "line 2 is no problem"),
        ({"question": " ", "answer": "2"}, "line 2 is no problem"),
    ],
)
def test_what_is_no_problem_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_problems(write(tmp_path / "p.jsonl", PROBLEMS[0], row), 10)


def test_a_file_without_calculations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no calculation"):
        read_problems(write(tmp_path / "p.jsonl", {"question": "<<1+1=2>>?", "answer": "2"}), 10)


def test_the_section_shows_each_model_and_what_it_wrote(tmp_path: Path) -> None:
    found = measured(tmp_path, CalculatorHelper(TOKENS), 1.0)
    section = calculations_section({"taught to ask": found, "plain": found})
    assert "The 8 calculations of 4 given solutions" in section
    assert "| taught to ask | **0.0%** (0.0% to 0.0%) | **100.0%** (100.0% to 100.0%) | 100.0% | 100.0% |" in section
    assert "| plain, with calls | 3 | " in section
    assert calculations_section({}) == ""
