"""The row of an answer that a model wrote."""

from components.evaluation.robustness.items import Item
from components.evaluation.score_table import Score
from components.evaluation.text_models.base import Written


def answer_row(model: str, task: str, item: Item, format: str, metric: str, value: bool, said: Written) -> Score:
    """1 or 0 for what ``said`` came to; the text is the detail."""
    return Score(
        model=model,
        task=task,
        document=item.id,
        metric=metric,
        score=float(value),
        format=format,
        tokens=said.tokens,
        calls=said.calls,
        detail=said.text,
    )
