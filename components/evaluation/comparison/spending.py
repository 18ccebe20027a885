"""What the evaluation of a model cost, out of its table of scores."""

from collections import defaultdict

import pyarrow as pa

from components.evaluation.comparison.results import Spent
from components.evaluation.cost import COST_METRICS, CPU_SECONDS, JOULES


def spent(model: str, scores: pa.Table) -> Spent:
    """The sums over all examples; an example with several metrics was computed once, so its largest row counts."""
    tokens, calls = defaultdict[tuple[str, str, str], int](int), defaultdict[tuple[str, str, str], int](int)
    seconds = defaultdict[tuple[str, str, str], float](float)
    costs: dict[str, float] = {}
    names = ("task", "document", "format", "metric", "score", "tokens", "calls", "seconds")
    for task, document, written_as, metric, score, n_tokens, n_calls, time in zip(
        *(scores.column(name).to_pylist() for name in names), strict=True
    ):
        if metric in COST_METRICS:
            costs[metric] = costs.get(metric, 0.0) + score
            continue
        example = task, document, written_as
        tokens[example] = max(tokens[example], n_tokens)
        calls[example] = max(calls[example], n_calls)
        seconds[example] = max(seconds[example], time)
    return Spent(
        model=model,
        examples=len(tokens),
        tokens=sum(tokens.values()),
        calls=sum(calls.values()),
        seconds=sum(seconds.values()),
        cpu_seconds=costs.get(CPU_SECONDS),
        joules=costs.get(JOULES),
    )
