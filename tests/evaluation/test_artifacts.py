"""Views of the assessment and of the gate's decision."""

from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from components.core.run import Run
from components.evaluation.artifacts import GateDecision, Scores
from components.evaluation.factuality.artifacts import CascadeAssessment


def test_an_assessment_without_questions_has_no_answers(tmp_path: Path) -> None:
    scores = Run.local(tmp_path, "assess").seal({}, view=Scores)
    assert scores.answers() == []
    with pytest.raises(ArtifactError, match=r"has no 'samples\.jsonl'"):
        scores.samples()
    with pytest.raises(ArtifactError, match=r"has no 'report\.md'"):
        _ = scores.report


def test_a_damaged_answer_is_named(tmp_path: Path) -> None:
    run = Run.local(tmp_path, "assess")
    (tmp_path / Scores.ANSWERS).write_text('{"id": "q1"}\n')
    with pytest.raises(ArtifactError, match=r"answers\.jsonl, line 1 cannot be read as an answer"):
        run.seal({}, view=Scores).answers()


def test_a_damaged_assessment_of_a_cascade_is_named(tmp_path: Path) -> None:
    run = Run.local(tmp_path, "cascade")
    (tmp_path / CascadeAssessment.RESULTS).write_text("{}")
    artifact = run.seal({}, view=CascadeAssessment)
    assert artifact.retrieval_index is None
    with pytest.raises(ArtifactError, match="cannot be read as the assessment of a cascade"):
        artifact.results()


def test_the_decision_says_whether_and_why(tmp_path: Path) -> None:
    decision = Run.local(tmp_path, "gate").seal(
        {}, {"promote": False, "outcome": "hold", "reason": "worse"}, view=GateDecision
    )
    assert (decision.promote, decision.outcome, decision.reason) == (False, "hold", "worse")
