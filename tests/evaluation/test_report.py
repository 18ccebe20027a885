import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.artifact import REPORT
from components.core.run import Run
from components.data.prepared import PreparedData
from components.evaluation.report import embedded_image, report_markdown
from components.evaluation.results import Answer, ExactMatch, Interval, Results, Sample
from components.training.trained import TrainedModel


@pytest.fixture
def pretrained(tmp_path: Path) -> TrainedModel:
    return Run.local(tmp_path / "pretrained", "pretrain").seal(
        {
            "parameters": 3_670_000,
            "tokens": 12_345_678,
            "loss": 2.345,
            "validation_loss": 2.456,
            "validation_bits_per_byte": 1.2,
            "tokens_per_second": 45_678,
            "mfu": 0.315,
            "seconds": 270,
            "steps": 1500,
        },
        {
            "precision": "bf16-mixed",
            "device": "2 threads of an honest CPU",
            "ops": {"attention": "torch sdpa", "linear_cross_entropy": "chunked"},
            "peak": "1.2 TFLOP/s, measured",
        },
        view=TrainedModel,
    )


def results(samples: list[Sample] | None = None, questions: bool = True) -> Results:
    def answer(correct: bool) -> Answer:
        return Answer(
            id="q",
            question="?",
            prompt="Ada was born in",
            expected="Orlen",
            written=" Orlen.",
            correct=correct,
            stated=7,
        )

    share = ExactMatch(questions=200, share=Interval(0.123, 0.1, 0.15))
    return Results(
        documents=40,
        bytes=12_000,
        predictions=4_321,
        confidence=0.95,
        bits_per_byte=Interval(1.2346, 1.2, 1.27),
        perplexity=12.5,
        call_probability=0.0004,
        exact_match={"all": share, "head": share, "tail": share} if questions else {},
        answers=[answer(i % 2 == 0) for i in range(20)] if questions else [],
        samples=samples or [],
    )


def test_the_page_says_what_how_good_and_from_what(pretrained: TrainedModel, prepared: PreparedData) -> None:
    page = report_markdown(results(), {"pretraining": pretrained}, prepared, "loss.png")
    first = page.split("\n\n")[1]
    assert "**3.67 M parameters**" in first
    assert "**12.3 M tokens**" in first
    assert "**1.235 bits per byte**" in first
    assert "**12.3%** of 200 questions" in first
    assert "![Loss over the optimizer steps of each training, with the learning rate below](loss.png)" in page
    for expected in (
        "95 % interval 1.2000 to 1.2700",
        r"| Sources | a\_b.txt |",
        "340 documents",
        "bf16-mixed on 2 threads of an honest CPU",
        "31.5% of the peak (1.2 TFLOP/s, measured)",
        "| Linear cross entropy | chunked |",
        "1,500 steps over 12.3 M tokens in 4 min",
        "stated often",
        "stated rarely",
    ):
        assert expected in page, expected
    assert page.count("| right |") == page.count("| wrong |") == 3
    assert len(page) < 4000, "one page"


def test_pretraining_and_delegation_are_told_apart(
    tmp_path: Path, pretrained: TrainedModel, prepared: PreparedData
) -> None:
    metrics = {**pretrained.metrics, "tokens": 600_000, "steps": 300, "loss": 2.111}
    delegated = Run.local(tmp_path / "delegated", "delegate").seal(metrics, pretrained.details, view=TrainedModel)
    page = report_markdown(results(), {"pretraining": pretrained, "delegation": delegated}, prepared, "loss.png")
    assert "trained on **12.9 M tokens** (12.3 M in pretraining, 600 k in delegation)" in page
    assert "| Pretraining | 1,500 steps over 12.3 M tokens in 4 min" in page
    assert "| Delegation | 300 steps over 600 k tokens" in page
    assert "loss 2.111" in page.split("| Delegation |")[1].splitlines()[0]
    assert {"| Speed of pretraining |", "| Speed of delegation |"} <= set(re.findall(r"\| Speed of \w+ \|", page))


def test_data_without_questions_leaves_no_empty_section(pretrained: TrainedModel, prepared: PreparedData) -> None:
    page = report_markdown(results(questions=False), {"pretraining": pretrained}, prepared, "loss.png")
    assert "uestion" not in page
    assert "## Some answers" not in page
    assert "## Samples" not in page


def test_every_table_row_has_the_columns_of_its_head(pretrained: TrainedModel, prepared: PreparedData) -> None:
    sample = Sample(prompt="a | b", continuation="c\n\n| d |\n|---|", original="\\|")
    page = report_markdown(results([sample]), {"pretraining": pretrained}, prepared, "loss.png")
    for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        columns = {len(re.split(r"(?<!\\)(?:\\\\)*\|", line)) for line in block.splitlines()}
        assert len(columns) == 1, block


def test_what_the_model_writes_stays_text(pretrained: TrainedModel, prepared: PreparedData) -> None:
    hostile = Sample(
        prompt="<script>alert(1)</script>",
        continuation="![x](https://example.org/x.png) `code` **bold**",
        original="# h",
    )
    page = report_markdown(results([hostile]), {"pretraining": pretrained}, prepared, "loss.png")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert r"!\[x\](https" in page
    assert r"\*\*bold\*\*" in page


def test_the_embedded_page_carries_its_figure(tmp_path: Path, pretrained: TrainedModel, prepared: PreparedData) -> None:
    (tmp_path / REPORT).write_text(report_markdown(results(), {"pretraining": pretrained}, prepared, "loss.png"))
    (tmp_path / "loss.png").write_bytes(b"\x89PNG figure")
    page = embedded_image(tmp_path)
    encoded = re.search(r"!\[[^\]]*\]\(data:image/png;base64,([^)]+)\)", page)
    assert encoded
    assert base64.b64decode(encoded[1]) == b"\x89PNG figure"
    assert "(loss.png)" not in page


def test_the_flow_process_can_import_report_and_config_without_torch_or_numpy() -> None:
    code = (
        "import sys, components.evaluation.report, components.evaluation.config;"
        "print([name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_answers_shown_are_spread_over_all_questions(pretrained: TrainedModel, prepared: PreparedData) -> None:
    """Questions come with popular subjects first; the first few would show those only."""
    every = results()
    numbered = [answer.model_copy(update={"stated": 1000 + i}) for i, answer in enumerate(every.answers)]
    page = report_markdown(
        every.model_copy(update={"answers": numbered}), {"pretraining": pretrained}, prepared, "loss.png"
    )
    assert re.findall(r"\| (1,\d+) \| right \|", page) == ["1,000", "1,008", "1,018"]
    assert re.findall(r"\| (1,\d+) \| wrong \|", page) == ["1,001", "1,009", "1,019"]
