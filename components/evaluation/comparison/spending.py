"""What the evaluation of a model cost, out of its table of scores."""

import pyarrow as pa

from components.evaluation.aggregates import example_costs
from components.evaluation.comparison.results import Spent
from components.evaluation.cost import COST_METRICS, CPU_SECONDS, JOULES
from components.evaluation.score_table import rows


def spent(model: str, scores: pa.Table) -> Spent:
    """The sums over all examples, and what was measured for whole pieces of the work."""
    listed = rows(scores)
    examples = example_costs(listed).values()
    costs: dict[str, float] = {}
    for row in listed:
        if row.metric in COST_METRICS:
            costs[row.metric] = costs.get(row.metric, 0.0) + row.score
    return Spent(
        model=model,
        examples=len(examples),
        tokens=sum(each.tokens for each in examples),
        calls=sum(each.calls for each in examples),
        seconds=sum(each.seconds for each in examples),
        cpu_seconds=costs.get(CPU_SECONDS),
        joules=costs.get(JOULES),
    )
