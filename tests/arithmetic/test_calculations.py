import gzip
import json

import pytest

from components.arithmetic.calculations import calculations, rest_of_result, same_value
from tests.conftest import SHARED_DATA

SOLUTION = "She sold 48/2 = <<48/2=24>>24 clips, for $<<24*.5=12.00>>12 and <<1/2=.6>>.6, not <<7>> or <<1=\n1>>."


def test_calculations_of_a_text_are_found_and_judged_by_value() -> None:
    found = list(calculations(SOLUTION))
    assert [(each.expression, each.result, each.right) for each in found] == [
        ("48/2", "24", True),
        ("24*.5", "12.00", True),
        ("1/2", ".6", False),
    ]
    assert [SOLUTION[each.start : each.end] for each in found] == ["24", "12.00", ".6"]


def test_a_result_may_be_an_expression_but_must_have_a_value() -> None:
    assert same_value("3/4", "6/8")
    assert not same_value("1/0", "1/0")
    assert not same_value("", "")


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<<48/2=", "24>>"),
        ("<<48/2=2", "4>>"),
        ("<<48/2=24", ">>"),
        ("<<1/2=", "0.5>>"),
        ("<<1/2=.", "5>>"),
        ("<<1/2=0.", "5>>"),
        ("<<3-8=", "-5>>"),
        ("<<1/4-1/2=-.", "25>>"),
        ("<<1=1>>and <<2*(3+4)=", "14>>"),
        # Nothing is open, or it has no value.
        ("", None),
        ("48/2 =", None),
        ("<<48/2", None),
        ("<<48/2=24>>", None),
        ("<<48/2=24>>24 and 2 =", None),
        ("<<48/2=23", None),
        ("<<48/2= ", None),
        ("<<10/3=", None),
        ("<<1/0=", None),
        ("<<9**9**9=", None),
        ("<<=", None),
        ("<<import os=", None),
        ("<<" + "9+" * 5000 + "9=", None),
    ],
)
def test_what_is_missing_of_a_result(text: str, rest: str | None) -> None:
    assert rest_of_result(text) == rest


def test_every_calculation_of_gsm8k_is_right() -> None:
    path = SHARED_DATA / "eval/gsm8k/test.jsonl.gz"
    if not path.is_file():
        pytest.skip("test.jsonl.gz of ../shared/data is not here")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        answers = [json.loads(line)["answer"] for line in lines][:300]
    found = [each for answer in answers for each in calculations(answer)]
    assert len(found) == sum(answer.count("<<") for answer in answers) > 900
    assert all(each.right for each in found)
