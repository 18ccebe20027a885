"""The few figures by which runs are compared, and the rows of the closing table.

Both say of which training they speak.
"""

from collections.abc import Iterable, Mapping

from components.core.artifact import Artifact, Rows
from components.training.names import TRAININGS

_OF_A_TRAINING = ("tokens", "loss", "validation_loss")
_HEADLINES = {
    "prepare": ("tokens",),
    "pretrain": ("parameters", *_OF_A_TRAINING),
    "delegate": _OF_A_TRAINING,
    "assess": ("bits_per_byte", "exact_match"),
    "cascade": ("fact_accuracy_alone", "fact_accuracy", "wasted_calls"),
}


def headline_names() -> list[str]:
    """All names that ``headline_metrics`` may give, in the order of the stages."""
    return [_name(stage, name) for stage, names in _HEADLINES.items() for name in names]


def headline_metrics(artifacts: Iterable[Artifact]) -> dict[str, float]:
    """What a table of runs shows of these artifacts: ``pretraining/loss``, ``assess/bits_per_byte`` and so on."""
    return {
        _name(artifact.stage, name): artifact.metrics[name]
        for artifact in artifacts
        for name in _HEADLINES.get(artifact.stage, ())
        if name in artifact.metrics
    }


def _name(stage: str, metric: str) -> str:
    return f"{TRAININGS.get(stage, stage)}/{metric}"


def headline_rows(artifact: Artifact) -> Rows:
    """The rows that a stage has sealed; those of a training say which of the two they speak of."""
    if (training := TRAININGS.get(artifact.stage)) is None:
        return artifact.record.rows
    sealed = artifact.record.rows
    known = {name for name, _ in sealed}
    missing = [row for row in _training_rows(artifact.metrics) if row[0] not in known]
    return [(f"{training}: {name}", value) for name, value in [*missing, *sealed]]


def _training_rows(metrics: Mapping[str, float]) -> Rows:
    """What pretraining seals of itself; delegation has the same metrics, but seals other rows."""
    if not {*_OF_A_TRAINING, "tokens_per_second"} <= metrics.keys():
        return []
    return [
        ("tokens trained on", f"{metrics['tokens']:,.0f} at {metrics['tokens_per_second']:,.0f} tokens/s"),
        ("loss", f"{metrics['loss']:.3f} training, {metrics['validation_loss']:.3f} validation"),
    ]
