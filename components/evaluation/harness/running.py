"""Examples of one task put to a model through lm-eval: its prompts, its filters and its metrics."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.core.errors import InputError
from components.evaluation.harness.adapter import HarnessModel
from components.evaluation.harness.loading import LoadedTask
from components.evaluation.text_models.base import Likelihood, Written


@dataclass(frozen=True)
class Answered:
    """One example with all that the model said."""

    number: int
    """Index of the example in its task."""
    example: Mapping[str, Any]
    said: list[Likelihood | Written]
    """One for each request, in the order of the choices where there are several."""
    metrics: dict[str, dict[str, Any]]
    """lm-eval's metrics by filter."""
    responses: dict[str, list[Any]]
    """What they were computed from, by filter."""
    seconds: float
    """Its share of the time by tokens."""


def answered(task: LoadedTask, model: HarnessModel, numbers: Sequence[int]) -> list[Answered]:
    """Put the examples with these numbers to ``model``, all requests at once."""
    begun = time.perf_counter()
    requests = [_requests(task, number) for number in numbers]
    flat = [request for some in requests for request in some]
    for kind in dict.fromkeys(request.request_type for request in flat):
        alike = [request for request in flat if request.request_type == kind]
        for request, response in zip(alike, getattr(model, kind)(alike), strict=True):
            request.resps.append(response)
    task.task._instances = flat  # what lm-eval's evaluator leaves there for its filters
    task.task.apply_filters()
    said = [[model.said.pop(id(request)) for request in some] for some in requests]
    each = (time.perf_counter() - begun) / max(1, sum(answer.tokens for some in said for answer in some))
    return [
        _measured(task, number, some, answers, each)
        for number, some, answers in zip(numbers, requests, said, strict=True)
    ]


def _requests(task: LoadedTask, number: int) -> list[Any]:
    example, shots = task.rows[number], task.task.config.num_fewshot
    try:
        context = task.task.fewshot_context(example, num_fewshot=shots, gen_prefix=task.task.doc_to_prefix(example))
    except AssertionError as error:  # lm-eval's for too few solved examples
        raise InputError(f"{task.name} cannot show {shots} solved examples: {error} Set harness.num_fewshot") from error
    made = task.task.construct_requests(doc=example, ctx=context, metadata=(task.name, number, 1))
    return list(made) if isinstance(made, list) else [made]


def _measured(
    task: LoadedTask, number: int, requests: Sequence[Any], said: list[Likelihood | Written], token_seconds: float
) -> Answered:
    example = task.rows[number]
    responses = {name: [request.filtered_resps[name] for request in requests] for name in requests[0].filtered_resps}
    metrics = {name: dict(task.task.process_results(example, some)) for name, some in responses.items()}
    seconds = token_seconds * sum(answer.tokens for answer in said)
    return Answered(number, example, said, metrics, responses, seconds)
