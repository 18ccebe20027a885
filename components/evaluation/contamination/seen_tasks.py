"""The published tasks of an evaluation, looked for in the text that the model learnt from."""

from collections.abc import Sequence

from components.core.artifact import Artifact
from components.data.prepared import PreparedData
from components.evaluation.contamination.config import ContaminationConfig
from components.evaluation.contamination.examples import contaminated_examples, contamination_scores
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.harness.suite import examples
from components.evaluation.score_table import Score


def learnt_from(model: Artifact, prepared: PreparedData) -> bool:
    """Whether ``prepared`` is the data of the model, a bundle or the artifact of a training."""
    return model.record.identity.inputs.get("prepared") == prepared.content


def seen_task_scores(
    model: str, tasks: Sequence[str], harness: HarnessConfig, prepared: PreparedData, cfg: ContaminationConfig
) -> list[Score]:
    """A row for each example of ``tasks``: 1 if the training text holds it. One pass over that text for all tasks."""
    listed = {name: rows for task in tasks for name, rows in examples(task, harness).items()}
    found = contaminated_examples(prepared, listed, cfg)
    return [score for task, seen in found.items() for score in contamination_scores(model, task, seen)]
