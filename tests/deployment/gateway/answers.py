"""Asks a gateway's engine."""

import queue
from dataclasses import asdict

from components.core.errors import LacewingError
from components.deployment.decoding import Delta, Request
from components.deployment.gateway.engine import GatewayEngine

SECONDS = ("helper_seconds",)
"""Of a summary, what differs from run to run."""


def answer(engine: GatewayEngine, request: Request) -> tuple[list[Delta], dict[str, int]]:
    """All deltas of one answer, and its counts."""
    arrived: queue.Queue[Delta | LacewingError] = queue.Queue()
    (generation,) = engine.submit([(request, arrived.put)])
    deltas: list[Delta] = []
    while not deltas or deltas[-1].finish is None:
        delta = arrived.get(timeout=60)
        if isinstance(delta, LacewingError):
            raise delta
        deltas.append(delta)
    return deltas, {name: value for name, value in asdict(generation.summary).items() if name not in SECONDS}
