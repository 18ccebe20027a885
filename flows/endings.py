"""How a run ends that does not complete: refused by the gate, stopped from outside, or not worth going on with.

All are raised to whoever called the flow. In Prefect they are states: see ``flows.adapters.prefect_states``.
"""

from collections.abc import Mapping
from typing import Any

from components.core.errors import LacewingError

GO_ON = "run again to go on"


class RefusedError(LacewingError):
    """The gate said no, and this is its reason. The flow has done its work; nothing is broken."""

    exit_code = 3

    def __init__(self, reason: str, summary: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.summary = summary
        """What the flow would have returned."""


class InterruptedRunError(LacewingError):
    """Ctrl-C, SIGTERM or the button *Cancel*; the message says what is kept and how to go on."""

    exit_code = 130

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NotWorthwhileError(LacewingError):
    """A stage was stopped because its result is not wanted any more: a trial of a sweep that is worse than others."""
