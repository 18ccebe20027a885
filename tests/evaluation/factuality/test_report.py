"""The page: what models and files say can do it no harm, and no number is lost."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.core.artifact import REPORT
from components.evaluation.factuality import attribution_image
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.evaluation.factuality.generated import Biography
from components.evaluation.factuality.real_text import FactScore, FactScoreResults, ProbeResults, ProbeScore
from components.evaluation.factuality.real_text_report import factscore_section, probes_section
from components.evaluation.factuality.report import (
    cascade_report,
    embedded_report,
    texts_page,
)
from components.evaluation.factuality.results import CascadeResults
from components.evaluation.results import Interval
from tests.evaluation.factuality.test_generated import biography
from tests.evaluation.factuality.test_study import results

EVIL = 'x</span><script>alert("1")</script> <img src=x onerror=a()> | **b** [l](javascript:a) `c`\n# h\n\n| a |\n& <!--'


def written(estimate: float) -> dict[str, Any]:
    return {
        "precision": (estimate, estimate - 0.1, estimate + 0.05), "recall": (0.25, 0.2, 0.3), "claims": 6.5,
        "understood": 0.9, "calls": 0.12, "helper_tokens": 0.2, "failed_calls": 0,
    }  # fmt: skip


def full() -> CascadeResults:
    """With a plain model and biographies."""
    values = results("lacy", 0).model_dump()
    for name in ("model", "plain"):
        values[name] = {**values["model"], "alone": written(0.3), "cascade": written(0.8), "leakage": 0.11}
    return CascadeResults.model_validate(values)


def evil_text() -> Biography:
    begin, end = EVIL.index("<script>"), EVIL.index("</script>") + 9
    return biography([]).model_copy(
        update={
            "text": EVIL,
            "authors": [(0, begin, "given"), (begin, end, "helper"), (end, len(EVIL), "small")],
            "claims": [(begin, end, "f", "v", False)],
        }
    )


def test_texts_can_neither_run_nor_break_their_page() -> None:
    page = texts_page([evil_text()])
    assert "<script" not in page
    assert "<img" not in page
    assert "<!--" not in page
    assert page.count("<span") == page.count("</span>")
    assert page.count("<s>") == page.count("</s>") == 2  # one in the key
    assert "<s>&lt;script&gt;" in page


def test_the_report_shows_texts_as_a_picture_so_they_cannot_write_markdown() -> None:
    page = cascade_report(full(), [evil_text()], CascadeAssessment.CURVE_PNG)
    assert "onerror" not in page
    assert f"]({CascadeAssessment.TEXTS_PNG})" in page


def test_every_letter_is_drawn_once_in_its_place(tmp_path: Path) -> None:
    text = evil_text()
    lines = list(attribution_image._lines(text))
    drawn = "".join(letter[0] for line in lines for letter in line)
    assert drawn.replace(" ", "") == "".join(text.text.split())
    helper = "".join(letter[0] for line in lines for letter in line if letter[1:] == ("helper", True))
    assert helper == '<script>alert("1")</script>'
    attribution_image.draw_texts([text, biography([])], [tmp_path / CascadeAssessment.TEXTS_PNG])
    assert (tmp_path / CascadeAssessment.TEXTS_PNG).read_bytes().startswith(b"\x89PNG")


def test_every_way_of_writing_and_every_budget_has_its_row() -> None:
    page = cascade_report(full(), [], CascadeAssessment.CURVE_PNG)
    for name in ("taught to ask, alone", "taught to ask, with calls", "plain, alone", "plain, with calls"):
        assert f"| {name} |" in page
    assert "**80.0%** (70.0% to 85.0%)" in page
    for point in results("lacy", 0).model.curve:
        assert f"| {point.budget:.0%} | **{point.accuracy:.1%}** | {point.bound:.1%} |" in page
    assert f"({CascadeAssessment.CURVE_PNG})" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for above, below in zip(rows, page.splitlines(), strict=False):
        assert above.count("|") >= 3, below


def test_a_model_without_claims_and_facts_has_a_page_too() -> None:
    values = results("ntp", 0).model_dump()
    values["model"]["alone"] = {**written(0.5), "precision": None}
    values["plain"] = None
    page = cascade_report(CascadeResults.model_validate(values), [], CascadeAssessment.CURVE_PNG)
    assert "| taught to ask, alone | – |" in page
    assert "nan" not in page.lower()


def test_the_figure_is_embedded(tmp_path: Any) -> None:
    (tmp_path / REPORT).write_text(cascade_report(full(), [], CascadeAssessment.CURVE_PNG), encoding="utf-8")
    (tmp_path / CascadeAssessment.CURVE_PNG).write_bytes(b"\x89PNG")
    page = embedded_report(tmp_path)
    assert "(data:image/png;base64,iVBORw==)" in page
    assert f"({CascadeAssessment.CURVE_PNG})" not in page


def test_the_sections_on_real_text_hold_every_figure_and_no_markup_of_others() -> None:
    score = ProbeScore(probes=12, alone=Interval(0.25, 0.1, 0.4), cascade=Interval(0.5, 0.3, 0.7))
    probes = ProbeResults(
        file="<b>p|q.jsonl", parts={"all": score, "head": score},
        relations={"P|19": (7, 0.1, 0.2), "P20": (5, 0.3, 0.4)},
        leakage=0.1, asked=0.4, asked_where_wrong=0.6, asked_where_right=None, calls=0.1, failed_calls=0,
    )  # fmt: skip
    births = probes.model_copy(update={"file": "births.jsonl", "relations": {"birth_year": (12, 0.25, 0.5)}})
    section = probes_section({"taught to ask": [births, probes], "plain": [births]})
    assert section.count("births.jsonl") == 2
    assert section.count("relations of") == 1
    assert "<b>" not in section
    assert "| **25.0%** (10.0% to 40.0%) | **50.0%** (30.0% to 70.0%) | 40.0% | 60.0% | – |" in section
    assert "– of the training text" in section
    assert "P\\|19" in section
    assert probes_section({"taught to ask": []}) == ""

    alone = FactScore(score=Interval(0.2, 0.1, 0.3), penalised=None, respond_ratio=0.5, facts_per_response=3.0,
                      entities=9, judged=4, failures=2, least=0.1, most=0.6)  # fmt: skip
    found = FactScoreResults(facts_by="clauses", judged_by="<i>me</i>", gamma=10, alone=alone, cascade=alone)
    section = factscore_section({"taught to ask": found})
    assert "<i>" not in section
    assert (
        "| taught to ask, alone | **20.0%** (10.0% to 30.0%) | – | 50% | 3.0 | 2 (score between 10.0% and 60.0%) |"
        in section
    )
    assert factscore_section({}) == ""


@pytest.mark.parametrize("module", ["report", "real_text_report", "results", "real_text"])
def test_the_flow_imports_the_page_without_torch(module: str) -> None:
    code = (
        f"import sys; import components.evaluation.factuality.{module}; "
        "print(sorted({'torch', 'numpy', 'matplotlib', 'spacy', 'bm25s'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
