"""The view of labels: facts for all data, judged values only where there are some."""

from pathlib import Path

import pytest

from components.core.errors import ArtifactError
from components.core.run import Run
from components.labelling.artifact import Labels
from tests.training.conftest import prepare


def test_labels_without_bits_are_refused_and_judged_values_may_be_missing(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "prepared")
    labels = Run.local(tmp_path / "labels", "label").seal({}, view=Labels)
    assert labels.judged(prepared) is None
    with pytest.raises(ArtifactError, match="has no 'facts'"):
        labels.facts(prepared)
    (labels.folder / Labels.JUDGED).mkdir()
    with pytest.raises(ArtifactError, match="holds no finished labels"):
        labels.judged(prepared)
    with pytest.raises(ArtifactError, match="annotator_agreement"):
        _ = labels.agreement
