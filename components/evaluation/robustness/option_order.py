"""Does the choice depend on the order in which the choices are shown?

The choices are shown in every rotation, so that each stands once at every place (Zheng et al. 2024, arXiv 2309.03882,
find that models prefer some letters). ``acc`` is a row for each rotation. ``same_choice`` is one for the question: the
share of pairs of rotations in which the model chooses the same text.
"""

from collections.abc import Sequence
from itertools import combinations

from components.evaluation.robustness.formats import USUAL, Format, asked
from components.evaluation.robustness.items import Item
from components.evaluation.score_table import Score
from components.evaluation.text_models.base import Continuation, Likelihood, TextModel


def rotations(choices: Sequence[str], count: int) -> list[list[str]]:
    """The first ``count`` rotations, the given order first; 0 stands for all."""
    return [[*choices[start:], *choices[:start]] for start in range(len(choices))][: count or None]


def rotated_scores(model: TextModel, task: str, items: Sequence[Item], count: int) -> list[Score]:
    """Rows of every question in every rotation."""
    ways = [(item, order, USUAL) for item in items for order in rotations(item.choices, count)]
    said = iter(chosen(model, ways))
    rows: list[Score] = []
    for item in items:
        texts = []
        for place, order in enumerate(rotations(item.choices, count)):
            best, answers = next(said)
            texts.append({order[each] for each in best})
            rows.append(accuracy_row(model, task, item, f"rotation {place}", order, best, answers))
        pairs = [len(one & other) / len(one | other) for one, other in combinations(texts, 2)]
        if pairs:
            rows.append(Score(model.name, task, item.id, "same_choice", sum(pairs) / len(pairs)))
    return rows


def format_scores(model: TextModel, task: str, items: Sequence[Item], formats: Sequence[Format]) -> list[Score]:
    """Rows of every question in every format."""
    ways = [(item, item.choices, format) for item in items for format in formats]
    return [
        accuracy_row(model, task, item, format.name, choices, best, answers)
        for (item, choices, format), (best, answers) in zip(ways, chosen(model, ways), strict=True)
    ]


def chosen(
    model: TextModel, ways: Sequence[tuple[Item, Sequence[str], Format]]
) -> list[tuple[list[int], list[Likelihood]]]:
    """The likeliest choices of each question, more than one where they tie, and the likelihood of each."""
    questions = [asked(item, choices, format) for item, choices, format in ways]
    likely = iter(model.likelihoods([Continuation(context, mark) for context, marks in questions for mark in marks]))
    found = []
    for _, marks in questions:
        answers = [next(likely) for _ in marks]
        most = max(each.log_likelihood for each in answers)
        found.append(([place for place, each in enumerate(answers) if each.log_likelihood == most], answers))
    return found


def accuracy_row(
    model: TextModel,
    task: str,
    item: Item,
    format: str,
    choices: Sequence[str],
    best: Sequence[int],
    answers: Sequence[Likelihood],
) -> Score:
    """1 for the right choice, a share of it where several are equally likely."""
    texts = [choices[place] for place in best]
    score = 1 / len(texts) if item.answer in texts else 0.0
    tokens = sum(each.tokens for each in answers)
    return Score(model.name, task, item.id, "acc", score, format=format, tokens=tokens, detail=" / ".join(texts))
