"""Do the answers stay when the prompts have slips?

Rows: ``right`` for the original prompt and for each rate of slips, and ``changed`` for each rate: whether the answer
differs from the one to the original prompt. A prompt in which nothing may change counts for nothing.
"""

from collections.abc import Callable, Sequence
from random import Random

from components.evaluation.robustness.config import RobustnessConfig
from components.evaluation.robustness.items import Item, changed
from components.evaluation.robustness.rows import answer_row
from components.evaluation.score_table import Score
from components.evaluation.text_models.base import TextModel

Slips = Callable[[str, float, Random], str]


def slip_scores(model: TextModel, task: str, items: Sequence[Item], slips: Slips, cfg: RobustnessConfig) -> list[Score]:
    """Rows of every question, without slips and at every rate."""
    prompts = [[item.prompt, *slipped(item, slips, cfg)] for item in items]
    answers = iter(model.write([prompt for each in prompts for prompt in each], cfg.max_tokens, stop=("\n",)))
    rows: list[Score] = []
    for item, given in zip(items, prompts, strict=True):
        own = next(answers)
        rows.append(answer_row(model.name, task, item, "", "right", item.right(own.text), own))
        for rate, prompt in zip(cfg.rates, given[1:], strict=True):
            said = next(answers)
            if prompt != item.prompt:
                differs = changed(item.stated(own.text), item.stated(said.text))
                judged = {"right": item.right(said.text), "changed": differs}
                rows += [answer_row(model.name, task, item, f"{rate:.0%}", *each, said) for each in judged.items()]
    return rows


def slipped(item: Item, slips: Slips, cfg: RobustnessConfig) -> list[str]:
    """The prompt at each of the rates."""
    return [slips(item.prompt, rate, Random(f"slips {cfg.seed} {rate} {item.id}")) for rate in cfg.rates]
