"""The calibration of a model on held-out text: the threshold on P(CALL) for any share of calls.

Absolute values of P(CALL) mean little (a model whose loss leaves CALL out of the
softmax of kept tokens calls nearly everywhere with certainty); their order does. So the record holds quantiles.
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.cascade.config import CalibratedScore
from components.core.artifact import Artifact
from components.core.atomic import write_text
from components.core.errors import ArtifactError, InputError
from components.core.records import read_record

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

LEVELS = 1001  # quantiles at 0, 1, ..., 1000 permille


def quantiles_of(scores: "Float[np.ndarray, ' positions']") -> list[float]:
    """Quantiles of ``scores`` at the ``LEVELS``, ascending."""
    import numpy as np  # the flow's process reads this module without it

    quantiles: list[float] = np.quantile(scores, np.linspace(0.0, 1.0, LEVELS)).tolist()
    return sorted(quantiles)  # interpolation between equal values may undercut them by a rounding error


class ReliabilityBin(BaseModel):
    """Positions whose P(CALL) lies in one interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    low: float
    """Smallest P(CALL)."""
    high: float
    """Largest; it belongs to the last bin only."""
    mean: float
    """Mean P(CALL) of the positions."""
    wrong: float
    """Share of positions at which the most likely token, CALL left out, is wrong."""
    count: int
    """Positions."""


class CallCalibration(BaseModel):
    """Quantiles of the scores by which a model calls."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    quantiles: list[float] = Field(min_length=LEVELS, max_length=LEVELS)
    """P(CALL) at 0 to 1000 permille of the positions, ascending."""
    tokens: int
    """Number of positions that were scored."""
    normalisation: str = "unknown"
    """Softmax that the kept tokens were trained with (``full`` or ``exclude_call``), if the model's artifact says."""
    factual: bool
    """Whether the text states any facts. If not, the model never calls."""
    mean_call_probability: dict[str, float] = {}
    """Mean P(CALL) by class of position: factual or other target, predicted right or wrong."""
    reliability: list[ReliabilityBin] = []
    """P(CALL) compared with how often the model alone would be wrong."""
    expected_vs_realised: list[tuple[float, float]] = []
    """Budget, and share of calls on the second half of the documents at the threshold found on the first half."""
    running_realised: list[tuple[float, float]] = []
    """The same with the running quantile."""
    post_hoc: dict[Literal["entropy", "margin", "logit_margin"], list[float]] = {}
    """Quantiles of the other scores at the same levels: those of models that never learned to call, and the one that
    other engines can follow."""

    @model_validator(mode="after")
    def _quantiles_ascend(self) -> "CallCalibration":
        for name, quantiles in [("quantiles", self.quantiles), *self.post_hoc.items()]:
            if len(quantiles) != LEVELS or quantiles != sorted(quantiles):  # also false for NaN
                raise ValueError(f"{name} must be {LEVELS} ascending numbers")
        return self

    def levels(self, score: CalibratedScore = "call") -> list[float]:
        """Quantiles of ``score``; raises ``ArtifactError`` if it was not calibrated."""
        if score == "call":
            return self.quantiles
        if score not in self.post_hoc:
            raise ArtifactError(f"this calibration has no quantiles of {score!r}: run `lacewing delegate` again")
        return self.post_hoc[score]

    def threshold(self, budget: float, score: CalibratedScore = "call") -> float:
        """Call where the score is above this: on text like the calibration's, a share ``budget`` of the positions.

        ``inf`` (never) for a budget of 0 and for text without facts, ``-inf`` (always) for 1. Raises ``InputError``
        for a budget outside 0 to 1.
        """
        check_budget(budget)
        if budget == 0.0 or not self.factual:
            return float("inf")
        if budget == 1.0:
            return float("-inf")
        place = (1.0 - budget) * (LEVELS - 1)
        below = min(int(place), LEVELS - 2)
        low, high = self.levels(score)[below : below + 2]
        return low + (high - low) * (place - below)

    def save(self, path: Path) -> None:
        """Write the record atomically."""
        write_text(path, self.model_dump_json(indent=2) + "\n")


# Of a plain model: it never calls, so its quantiles are never compared with anything.
NEVER_CALLS = CallCalibration(quantiles=[0.0] * LEVELS, tokens=0, factual=False)


class Calibration(Artifact):
    """The artifact of the stage ``calibrate``: when a model calls."""

    stages = ("calibrate",)

    RECORD: ClassVar = "calibration.json"

    def load(self) -> CallCalibration:
        """Raises ``ArtifactError`` if it is missing or damaged."""
        return read_record(self.path(self.RECORD), CallCalibration, "a calibration")


def check_budget(budget: float) -> None:
    """Raise ``InputError`` unless ``budget`` is a share."""
    if not 0.0 <= budget <= 1.0:
        raise InputError(f"a call budget of {budget} is not a share: give 0 (never) to 1 (always), for example 0.15")
