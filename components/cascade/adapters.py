"""An adapter as the cascade answers with it."""

from dataclasses import dataclass

from components.cascade.calibration import CallCalibration
from components.model.adapters.unmerged import Unmerged


@dataclass(frozen=True)
class CascadeAdapter:
    """An adapter of the small model, and when the model asks for help with it."""

    weights: Unmerged
    calibration: CallCalibration | None = None
    """``None``: that of the model without an adapter. The running quantile keeps to the budget all the same, but where
    it calls first is then decided by scores that an adapter may have moved."""
