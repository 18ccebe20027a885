"""From rows to figures: what a task took."""

from components.evaluation.aggregates import Cost, costs
from components.evaluation.cost import CPU_SECONDS
from components.evaluation.score_table import Score


def test_an_example_costs_once_however_many_metrics_it_has() -> None:
    rows = [
        Score("m", "t", "0", "acc", 1.0, format="cloze", tokens=10, calls=1, seconds=2.0),
        Score("m", "t", "0", "margin", 0.5, format="cloze", tokens=10, calls=1, seconds=2.0),
        Score("m", "t", "0", "acc", 1.0, format="letter", tokens=7, seconds=1.0),
        Score("m", "t", "1", "contaminated", 0.0),
        Score("m", "t", "piece", CPU_SECONDS, 9.0, weight=0.0),
    ]
    assert costs(rows) == {"t": Cost(examples=2, tokens=17, calls=1, seconds=3.0)}
