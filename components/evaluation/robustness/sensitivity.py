"""How much the likelihood of an answer depends on the wording of the prompt (POSIX).

Chatterjee et al. (2024, arXiv 2410.02185, section 3): of a set X of N prompts that ask for the same, with the answers
y_j that the model writes to each, the index is

    1 / (N (N - 1))  sum_i sum_j  1 / L_j  |log P(y_j | x_i) - log P(y_j | x_j)|

where L_j is the number of tokens of y_j. 0: the wording does not matter. An answer without a token drops out.
"""

import math
from collections.abc import Callable, Sequence
from random import Random

from components.data.world.comprehension import World
from components.evaluation.robustness.config import RobustnessConfig
from components.evaluation.robustness.items import Item, fact_of
from components.evaluation.robustness.openings import openings
from components.evaluation.robustness.slips import misspelt
from components.evaluation.score_table import Score
from components.evaluation.text_models.base import Continuation, Likelihood, TextModel

METRIC = "prompt_sensitivity"
_TEMPLATES = (
    "{prompt}",
    "{question} {prompt}",
    "Question: {question}\nAnswer: {prompt}",
    "Please complete the sentence. {prompt}",
    "Q: {question}\n\nA: {prompt}",
    "It is well known that:\n{prompt}",
)
_ATTEMPTS = 10

Variants = Callable[[Item], list[str]]


def spelling(item: Item, cfg: RobustnessConfig) -> list[str]:
    """The prompt, and the prompt with slips."""
    rng = Random(f"spelling {cfg.seed} {item.id}")
    rates = [rng.choice(cfg.rates) for _ in range(_ATTEMPTS * cfg.variants)]
    return _first({item.prompt: None} | {misspelt(item.prompt, rate, rng): None for rate in rates}, cfg)


def templates(item: Item, cfg: RobustnessConfig) -> list[str]:
    """The prompt, alone and after other words that ask for the same."""
    filled = (each.format(prompt=item.prompt, question=item.question) for each in _TEMPLATES)
    return _first(dict.fromkeys(filled), cfg)


def wordings(item: Item, world: World, cfg: RobustnessConfig) -> list[str]:
    """The prompt, and other sentences of the closed world that come to the same fact."""
    subject, relation = fact_of(item, world)
    return _first({item.prompt: None} | dict.fromkeys(openings(subject, relation)), cfg)


def sensitivity(model: TextModel, items: Sequence[Item], variants: Variants, max_tokens: int) -> list[float]:
    """The index of each item; NaN where fewer than two prompts got an answer."""
    prompts = [variants(item) for item in items]
    written = iter(model.write([prompt for each in prompts for prompt in each], max_tokens, stop=("\n",)))
    answers = [[next(written).text for _ in each] for each in prompts]
    flat = [
        Continuation(prompt, answer)
        for each, given in zip(prompts, answers, strict=True)
        for answer in filter(str.strip, given)
        for prompt in each
    ]
    likely = iter(model.likelihoods(flat))
    return [
        _index([[next(likely) for _ in each] if answer.strip() else [] for answer in given])
        for each, given in zip(prompts, answers, strict=True)
    ]


def _index(likely: Sequence[Sequence[Likelihood]]) -> float:
    """``likely[j][i]`` is the likelihood of the answer to prompt j after prompt i; an empty row has no answer."""
    changes = [
        sum(abs(other.log_likelihood - row[own].log_likelihood) / other.tokens for other in row) / (len(row) - 1)
        for own, row in enumerate(likely)
        if len(row) > 1
    ]
    return sum(changes) / len(changes) if changes else math.nan


def sensitivity_scores(
    model: TextModel, task: str, items: Sequence[Item], kinds: dict[str, Variants], max_tokens: int
) -> list[Score]:
    """A row for each item and kind of variants; an item that has only one wording counts for nothing."""
    rows = []
    for kind, variants in kinds.items():
        for item, value in zip(items, sensitivity(model, items, variants, max_tokens), strict=True):
            measured = not math.isnan(value)
            rows.append(
                Score(model.name, task, item.id, METRIC, value if measured else 0.0, float(measured), format=kind)
            )
    return rows


def _first(variants: dict[str, None], cfg: RobustnessConfig) -> list[str]:
    return list(variants)[: cfg.variants]
