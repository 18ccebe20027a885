"""What an answer cost beside tokens: the price of its calls, and its share of the energy."""

import threading
from dataclasses import dataclass

from components.deployment.energy import EnergyShares


@dataclass(frozen=True)
class Costs:
    """What a server counts."""

    price_per_call: float = 0.0
    """Of one call to the helper, in any currency; 0: nobody has said."""
    energy: EnergyShares | None = None
    """``None`` where the answers are not computed, or nobody could count."""


class Bill:
    """The costs of one request. Its prompts begin and end in the thread that answers them."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._lock = threading.Lock()
        self._entered: dict[int, tuple[float, int]] = {}
        self._joules: list[float | None] = []

    def begin(self, prompt: int) -> None:
        """The prompt of this number has its place in the batch."""
        if self._costs.energy is not None:
            entered = self._costs.energy.enter()
            with self._lock:
                self._entered[prompt] = entered

    def end(self, prompt: int) -> None:
        """It has given its place back; no effect if it had none."""
        with self._lock:
            entered = self._entered.pop(prompt, None)
        if entered is not None and self._costs.energy is not None:
            self._joules.append(self._costs.energy.leave(entered))

    def price(self, calls: int) -> float | None:
        """Of ``calls`` calls; ``None`` if no price is known."""
        return calls * self._costs.price_per_call if self._costs.price_per_call else None

    @property
    def energy(self) -> dict[str, float]:
        """Joules of all prompts that have ended, under the name that says whether they were counted; nothing if they
        are not known."""
        known = [joules for joules in self._joules if joules is not None]
        if self._costs.energy is None or not known or len(known) < len(self._joules):
            return {}
        return {"estimated_joules" if self._costs.energy.estimated else "joules": sum(known)}
