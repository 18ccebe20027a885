"""The tasks as pieces of an evaluation, and what is refused."""

import gzip
import json
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.data.prepared import PreparedData
from components.evaluation.robustness.config import RobustnessConfig
from components.evaluation.robustness.suite import TASKS, RobustnessSuite
from components.evaluation.score_table import complete, rows
from tests.evaluation.robustness.conftest import TableModel

CFG = RobustnessConfig(questions=27, formats=2, variants=3)


def question_file(path: Path, *lines: object) -> str:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return str(path)


def test_every_task_of_the_closed_world_gives_rows_for_every_question(
    tmp_path: Path, prepared: PreparedData, knowing: TableModel
) -> None:
    pieces = RobustnessSuite(prepared).pieces(knowing, TASKS, CFG)
    assert list(pieces)[:2] == ["robustness.formats world 0", "robustness.formats world 25"]
    found = rows(complete(tmp_path / "parts", pieces))
    for task in TASKS:
        assert len({row.document for row in found if row.task == task}) == 27
    keys = [(row.task, row.document, row.format, row.metric) for row in found]
    assert len(set(keys)) == len(keys)
    assert {row.model for row in found} == {"table"}
    assert rows(complete(tmp_path / "again", pieces)) == found


def test_questions_of_a_file_need_no_world(tmp_path: Path, knowing: TableModel) -> None:
    lines = [{"question": f"Where is {n}?", "choices": ["here", "there"], "answer": n % 2} for n in range(10)]
    cfg = RobustnessConfig(files=[question_file(tmp_path / "mine.jsonl.gz", *lines)])
    tasks = [task for task in TASKS if task != "robustness.flipped_facts"]
    pieces = RobustnessSuite().pieces(knowing, tasks, cfg)
    assert list(pieces) == [f"{task} mine.jsonl.gz 0" for task in tasks]
    found = rows(complete(tmp_path / "parts", pieces))
    assert {row.task for row in found} == set(tasks)
    assert {row.document for row in found} == {f"mine.jsonl.gz {n}" for n in range(10)}


@pytest.mark.parametrize(
    "line",
    [
        {"question": "Where?"},
        {"question": "Where?", "choices": ["one"], "answer": 0},
        {"question": "Where?", "choices": ["one", "one"], "answer": 0},
        {"question": "Where?", "choices": ["one", "two"], "answer": 2},
        {"question": "Where?", "choices": ["one", "two"], "answer": "two"},
        ["no", "object"],
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, knowing: TableModel, line: object) -> None:
    good = {"question": "Where?", "choices": ["one", "two"], "answer": 1}
    cfg = RobustnessConfig(files=[question_file(tmp_path / "mine.jsonl.gz", good, line)])
    with pytest.raises(InputError, match=r"mine\.jsonl\.gz, line 2 is not a question"):
        RobustnessSuite().pieces(knowing, ["robustness.options"], cfg)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, knowing: TableModel) -> None:
    damaged = tmp_path / "damaged.jsonl.gz"
    damaged.write_bytes(b"not gzip")
    for path in (damaged, tmp_path / "missing.jsonl"):
        with pytest.raises(InputError, match=path.name):
            RobustnessSuite().pieces(knowing, ["robustness.typos"], RobustnessConfig(files=[str(path)]))


def test_without_questions_or_with_an_unknown_task_the_error_says_what_to_do(knowing: TableModel) -> None:
    with pytest.raises(InputError, match=r"data=world.*evaluate\.robustness\.files"):
        RobustnessSuite().pieces(knowing, ["robustness.typos"], CFG)
    with pytest.raises(InputError, match="prepare the closed world"):
        RobustnessSuite().pieces(knowing, ["robustness.flipped_facts"], RobustnessConfig(files=["x.jsonl"]))
    with pytest.raises(InputError, match=r"robustness\.typo'; allowed are robustness\.formats"):
        RobustnessSuite().pieces(knowing, ["robustness.typo"], CFG)
