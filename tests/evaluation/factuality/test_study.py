import json
import math
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ArtifactError
from components.core.run import Run
from components.evaluation.config import BootstrapConfig
from components.evaluation.factuality.artifacts import CascadeAssessment, Study
from components.evaluation.factuality.results import CascadeResults
from components.evaluation.factuality.study import COLUMNS, stage
from components.evaluation.seeds import seed_interval

BUDGETS = [0.0, 0.05, 0.1, 0.15, 1.0]


def results(selection: str, seed: int, accuracy: float = 0.5, budget: float = 0.15, **values: Any) -> CascadeResults:
    """Accuracies that grow with the budget from ``accuracy``."""
    curve = [
        {"budget": each, "accuracy": accuracy + each * (1 - accuracy), "bound": min(1.0, accuracy + 4 * each),
         "wasted": 0.2, "precision": 0.7} for each in BUDGETS
    ]  # fmt: skip
    model = {
        "score": "call", "bits_per_byte": {"all": 1.5, "factual": 3.0, "other": 1.1}, "curve": curve,
        "at_budget": curve[3], "gain_of_bound": 0.5, "auroc_wrong_fact": 0.9, "auroc_wrong": 0.8,
        "auroc_wrong_among_facts": 0.7, "leakage": None, "alone": None, "cascade": None,
    }  # fmt: skip
    fields = {
        "selection": selection, "match": "steps", "normalisation": "full", "seed": seed, "helper": "fact table",
        "budget": budget, "positions": 1000, "factual_share": 0.25, "confidence": 0.95, "model": model, "plain": None,
        "helper_accuracy": {"calls": 10, "right": 0.9, "empty": 0.1, "failed": 0.0, "seconds": 0.01},
        "cost": {"annotation_seconds": 60.0, "training_seconds": 30.0, "tokens_forward": 1000, "tokens_gt_grad": 850,
                 "tokens_call_grad": 150},
    }  # fmt: skip
    return CascadeResults.model_validate({**fields, **values})


def sealed(folder: Path, *found: CascadeResults) -> dict[str, CascadeAssessment]:
    artifacts = {}
    for number, each in enumerate(found):
        run = Run.local(folder / str(number), "cascade")
        (run.folder / CascadeAssessment.RESULTS).write_text(each.model_dump_json())
        artifacts[f"{each.selection}-{number}"] = run.seal({}, view=CascadeAssessment)
    return artifacts


def compared(folder: Path, *found: CascadeResults) -> tuple[Study, dict[str, Any]]:
    artifact = stage(Run.local(folder / "study", "study"), BootstrapConfig(), **sealed(folder, *found))
    return artifact, json.loads(artifact.path(Study.SUMMARY).read_text())


def test_the_interval_over_seeds_is_students() -> None:
    # t with 2 degrees of freedom at 97.5 % is 4.302653; the standard deviation of 0.2, 0.3, 0.7 is 0.2645751.
    half = 4.302653 * 0.2645751 / math.sqrt(3)
    found = seed_interval([0.2, 0.3, 0.7], 0.95)
    assert found == pytest.approx((0.4, 0.4 - half, 0.4 + half), abs=1e-6)
    estimate, low, high = seed_interval([0.3], 0.95)
    assert estimate == 0.3
    assert math.isnan(low)
    assert math.isnan(high)


def test_methods_stand_side_by_side_over_their_seeds(tmp_path: Path) -> None:
    found = [results("lacy", seed, accuracy) for seed, accuracy in enumerate((0.2, 0.3, 0.7))]
    artifact, summary = compared(tmp_path, *found, *(results("ntp", seed, 0.1) for seed in range(3)))
    assert list(summary) == ["lacy", "ntp"]
    assert list(summary["lacy"]) == list(COLUMNS)
    assert artifact.metrics["lacy.alone"] == summary["lacy"]["alone"]["estimate"] == pytest.approx(0.4)
    assert summary["lacy"]["5 %"]["estimate"] == pytest.approx(0.4 + 0.05 * 0.6)
    assert summary["lacy"]["at budget"]["estimate"] == pytest.approx(0.4 + 0.15 * 0.6)
    assert artifact.metrics["ntp.tokens_learnt"] == 850
    # What nobody measured is no metric and no NaN in the table.
    assert "lacy.leakage" not in artifact.metrics
    report = artifact.report.read_text(encoding="utf-8")
    assert "| **lacy** |" in report
    assert "nan" not in report.lower()
    half = 4.302653 * 0.2645751 / math.sqrt(3)
    assert f"40.0% ± {100 * half:.1f}" in report
    assert "seeds 0, 1, 2" in report
    assert artifact.path(Study.CURVE_PNG).read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in artifact.path(Study.CURVE_SVG).read_bytes()
    assert artifact.details["methods"] == ["lacy", "ntp"]


def test_ways_of_matching_length_are_kept_apart(tmp_path: Path) -> None:
    _, summary = compared(tmp_path, results("lacy", 0), results("lacy", 0, match="gradient_tokens"))
    assert sorted(summary) == ["lacy (equal gradient_tokens)", "lacy (equal steps)"]


def test_different_budgets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cascades at different budgets cannot be compared: \[0.1, 0.15\]"):
        compared(tmp_path, results("lacy", 0), results("ntp", 0, budget=0.1))


def test_a_single_seed_is_shown_without_an_interval(tmp_path: Path) -> None:
    artifact, summary = compared(tmp_path, results("lacy", 0, 0.5))
    assert summary["lacy"]["alone"]["estimate"] == 0.5
    report = artifact.report.read_text(encoding="utf-8")
    assert "50.0%" in report
    assert "50.0% ±" not in report


def test_a_model_that_is_wrong_at_every_fact_has_results_that_can_be_read(tmp_path: Path) -> None:
    found = results("lacy", 0)
    nothing_to_tell = found.model.model_copy(update={"auroc_wrong_among_facts": math.nan})
    (read,) = sealed(tmp_path, found.model_copy(update={"model": nothing_to_tell})).values()
    assert math.isnan(read.results().model.auroc_wrong_among_facts)
    assert read.results().model.auroc_wrong == 0.8
