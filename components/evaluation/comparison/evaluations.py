"""The tables of scores that are compared, each under the name of its model."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, InputError
from components.evaluation.artifacts import Evaluation
from components.evaluation.score_table import read_scores


def named_tables(evaluations: Mapping[str, Artifact]) -> dict[str, pa.Table]:
    """A table for each model, in order; two models of one name are told apart by the keys of their evaluations.

    Raises ``ArtifactError`` if an evaluation holds no scores, and ``InputError`` if one is given twice.
    """
    tables = [(artifact, model, own) for artifact in evaluations.values() for model, own in _by_model(artifact)]
    names = [model for _, model, _ in tables]
    named = {
        model if names.count(model) == 1 else f"{model} ({artifact.key[:8]})": own for artifact, model, own in tables
    }
    if len(named) < len(tables):
        raise InputError(f"the same evaluation is given twice: {', '.join(names)}. Give different models")
    return named


def _by_model(artifact: Artifact) -> list[tuple[str, pa.Table]]:
    scores = read_scores(artifact.path(Evaluation.SCORES))
    models = pc.unique(scores.column("model")).to_pylist()
    if not models:
        raise ArtifactError(f"the evaluation {artifact.folder} holds no scores: run it again with at least one task")
    return [(model, scores.filter(pc.equal(scores.column("model"), model))) for model in models]
