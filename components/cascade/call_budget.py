"""The hard limit on the calls of one request, whatever the scores are."""

import math
from dataclasses import dataclass

from components.cascade.calibration import check_budget
from components.core.errors import InputError


@dataclass
class CallBudget:
    """Counts down the calls of one request."""

    limit: int
    """Calls allowed."""
    spent: int = 0
    """Calls made, whether or not the helper answered."""

    @classmethod
    def of(cls, budget: float, max_tokens: int, max_calls: int | None = None) -> "CallBudget":
        """``floor(budget * max_tokens)`` calls, and at most ``max_calls``; ``InputError`` for impossible numbers."""
        check_budget(budget)
        if max_calls is not None and max_calls < 0:
            raise InputError(f"max_calls is {max_calls}, it must be 0 (never call) or more")
        limit = math.floor(budget * max_tokens)
        return cls(limit if max_calls is None else min(limit, max_calls))

    def take(self) -> bool:
        """Spend one call if there is one left."""
        if self.spent >= self.limit:
            return False
        self.spent += 1
        return True
