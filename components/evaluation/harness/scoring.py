"""Rows of the table of scores for answered examples.

Choices are compared here and not by lm-eval, which takes the first of equally likely ones: a model that finds all
sentences equally likely would score 100 % on BLiMP, where the first is right. Here a tie of n choices counts 1/n.

Metrics of every example, where they apply:

- ``acc``, ``acc_norm``: the likeliest choice is right; the same for log P by character;
- ``right_mass``: where several choices are right, the share of the probability of all choices that they have;
- ``margin``: log P of the best right choice minus that of the best wrong one, in nats;
- ``log_likelihood`` of a continuation in nats, over its tokens; ``bits_per_byte`` of a text;
- ``exact_match`` and whatever else lm-eval computes for the task;
- ``centred``: what stands for the task, 0 at chance and 1 when right: (score - chance) / (1 - chance);
- ``call_mass``: probability that the model gave to ``<CALL>``, by token of what was scored.
"""

import json
import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float

from components.evaluation.harness.loading import LoadedTask
from components.evaluation.harness.running import Answered
from components.evaluation.score_table import Score
from components.evaluation.text_models.base import Likelihood, Written

_DETAIL_CHARACTERS = 400
_LN2 = math.log(2)


def scores(task: LoadedTask, model: str, answers: Sequence[Answered]) -> list[Score]:
    """All rows of these examples."""
    return [row for answer in answers for row in _rows(task, model, answer)]


def choice_accuracy(values: Float[np.ndarray, " choices"], right: Sequence[int]) -> float:
    """1 if the highest value belongs to a right choice, 0 if not; a tie counts the right share of those that tie."""
    best = np.flatnonzero(values == values.max())
    return float(np.isin(best, right).mean())


def _rows(task: LoadedTask, model: str, answer: Answered) -> Iterator[Score]:
    for number, name in enumerate(answer.metrics):
        values = {metric: value for metric, value in _values(task, answer, name).items() if value is not None}
        suffix = name if len(answer.metrics) > 1 else ""  # several filters are several ways to read one answer
        row_format = "/".join(part for part in (task.format, suffix) if part)
        for metric, (score, weight) in (values | (_call_mass(answer) if number == 0 else {})).items():
            yield Score(
                model=model,
                task=task.scores_as,
                document=str(answer.number),
                metric=metric,
                score=score,
                weight=weight,
                format=row_format,
                tokens=sum(said.tokens for said in answer.said),
                calls=sum(said.calls for said in answer.said if isinstance(said, Written)),
                seconds=answer.seconds,
                detail=_detail(task, answer, name),
            )


def _values(task: LoadedTask, answer: Answered, name: str) -> dict[str, tuple[float, float]]:
    """Score and weight by metric."""
    values = {
        metric: (float(value), 1.0)
        for metric, value in answer.metrics[name].items()
        if isinstance(value, Real) and metric != "perplexity"
    }
    chance = 0.0
    output = task.task.OUTPUT_TYPE
    if output == "multiple_choice" and not callable(task.task.config.process_results):
        chosen, chance = _choices(task, answer)
        values = {metric: value for metric, value in values.items() if metric not in ("acc", "acc_norm")} | chosen
    elif output in ("loglikelihood", "loglikelihood_rolling"):
        values |= _likelihoods(task, answer)
    headline = values.get(task.headline) or next(
        (values[metric] for metric in ("acc", "exact_match", *values) if metric in values), None
    )
    if headline is not None and output != "loglikelihood_rolling":
        values["centred"] = ((headline[0] / headline[1] - chance) / (1 - chance), 1.0)
    return values


def _choices(task: LoadedTask, answer: Answered) -> tuple[dict[str, tuple[float, float]], float]:
    """Metrics of a choice, and how often a guess is right."""
    texts = task.task.doc_to_choice(answer.example)
    right = _right(task, answer, texts)
    values = np.array([said.log_likelihood for said in answer.said[: len(texts)] if isinstance(said, Likelihood)])
    lengths = np.array([max(1, len(text)) for text in texts], dtype=np.float64)
    wrong = np.delete(values, right)
    mass = np.exp(values - values.max())
    found = {"acc": (choice_accuracy(values, right), 1.0)}
    if "acc_norm" in task.task._metric_fn_list:
        found["acc_norm"] = choice_accuracy(values / lengths, right), 1.0
    if len(right) > 1:
        found["right_mass"] = float(mass[right].sum() / mass.sum()), 1.0
    if len(wrong):
        found["margin"] = (float(values[right].max() - wrong.max()), 1.0)
    return found, min(len(right) / len(values), 1 - 1e-9)


def _right(task: LoadedTask, answer: Answered, texts: Sequence[str]) -> list[int]:
    """Indices of the right choices."""
    example = answer.example
    gold = task.task.doc_to_text(example) if task.task.multiple_input else task.task.doc_to_target(example)
    every = gold if isinstance(gold, list) else [gold]
    return [texts.index(each) if isinstance(each, str) else int(each) for each in every]


def _likelihoods(task: LoadedTask, answer: Answered) -> dict[str, tuple[float, float]]:
    (said,) = answer.said
    assert isinstance(said, Likelihood)  # for mypy
    if task.task.OUTPUT_TYPE == "loglikelihood":
        return {"log_likelihood": (said.log_likelihood, float(said.tokens))}
    size = len(str(task.task.doc_to_target(answer.example)).encode())
    return {"bits_per_byte": (-said.log_likelihood / _LN2, float(size))}


def _call_mass(answer: Answered) -> dict[str, tuple[float, float]]:
    said = [each for each in answer.said if isinstance(each, Likelihood)]
    if not said:
        return {}
    return {"call_mass": (sum(each.call_mass for each in said), float(sum(each.tokens for each in said)))}


def _detail(task: LoadedTask, answer: Answered, name: str) -> str:
    """What the model said: the choice that it took, or what it wrote."""
    values: list[Any] = [said.log_likelihood for said in answer.said if isinstance(said, Likelihood)]
    if task.task.OUTPUT_TYPE == "multiple_choice":
        texts = task.task.doc_to_choice(answer.example)
        return str(texts[int(np.argmax(values[: len(texts)]))])[:_DETAIL_CHARACTERS]
    written = [said.text for said in answer.said if isinstance(said, Written)]
    if written and written != answer.responses[name]:
        return json.dumps({"wrote": written[0][:_DETAIL_CHARACTERS], "read as": str(answer.responses[name][0])})
    return written[0][:_DETAIL_CHARACTERS] if written else ""
