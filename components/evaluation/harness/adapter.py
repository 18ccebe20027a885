"""A ``TextModel`` as lm-eval sees it: three methods, each of which hands all requests on at once.

Text goes through, not tokens: where a context ends and how a beginning is shared is the text model's business. lm-eval
takes two numbers for an answer; what else the model said (tokens, the mass of ``<CALL>``, calls) is kept by request.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components.core.errors import ArtifactError, InputError
from components.evaluation.harness.installed import harness
from components.evaluation.text_models.base import Continuation, Likelihood, TextModel, TokenScores, Written

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
else:
    harness()
    from lm_eval.api.model import LM

DEFAULT_TOKENS = 256
"""Longest answer where a task sets no limit."""


class HarnessModel(LM):  # type: ignore[misc] # lm-eval has no types
    """lm-eval's ``LM`` over a ``TextModel``: ``simple_evaluate(HarnessModel(model), tasks=[...])``.

    It keeps no cache: lm-eval's is a file of pickles, and the table of scores does the same. Greedy text only.
    """

    def __init__(self, model: TextModel) -> None:
        super().__init__()
        self.model = model
        self.said: dict[int, Likelihood | Written] = {}
        """What the model said, by the ``id`` of lm-eval's request."""

    def loglikelihood(self, requests: "list[Instance]") -> list[tuple[float, bool]]:
        """log P of each continuation, and whether each of its tokens is the likeliest one."""
        asked = [Continuation(*request.args) for request in requests]
        answers = self.model.likelihoods(asked)
        for request, answer in zip(requests, answers, strict=True):
            self._check(answer.log_likelihood, request)
            self.said[id(request)] = answer
        return [(answer.log_likelihood, answer.greedy) for answer in answers]

    def loglikelihood_rolling(self, requests: "list[Instance]") -> list[float]:
        """log P of whole texts, each a document; long ones in windows."""
        answers = [_summed(scores) for scores in self.model.token_scores([request.args[0] for request in requests])]
        for request, answer in zip(requests, answers, strict=True):
            self._check(answer.log_likelihood, request)
            self.said[id(request)] = answer
        return [answer.log_likelihood for answer in answers]

    def generate_until(self, requests: "list[Instance]") -> list[str]:
        """Greedy text after each prompt. Raises ``InputError`` for a task that wants samples."""
        alike: dict[tuple[int, tuple[str, ...]], list[Instance]] = {}
        for request in requests:
            alike.setdefault(_limits(request), []).append(request)
        for (max_tokens, stop), group in alike.items():
            for request, written in zip(
                group, self.model.write([request.args[0] for request in group], max_tokens, stop), strict=True
            ):
                self.said[id(request)] = written
        return [_text(self.said[id(request)]) for request in requests]

    def _check(self, log_likelihood: float, request: "Instance") -> None:
        if not math.isfinite(log_likelihood):
            raise ArtifactError(
                f"{self.model.name} gives a log-likelihood of {log_likelihood} in {request.task_name}, example "
                f"{request.doc_id}: its weights are damaged or its training diverged. Nothing is scored with it"
            )


def _summed(scores: TokenScores) -> Likelihood:
    return Likelihood(float(-scores.nats.sum()), bool(scores.right.all()), len(scores.nats), float(scores.call.sum()))


def _text(written: Likelihood | Written) -> str:
    assert isinstance(written, Written)  # for mypy
    return written.text


def _limits(request: "Instance") -> tuple[int, tuple[str, ...]]:
    """The longest answer in tokens, and what ends it."""
    options: dict[str, Any] = dict(request.args[1])
    if options.get("do_sample") or options.get("temperature"):
        raise InputError(
            f"{request.task_name} asks for sampled text, and evaluation writes greedily so that it can be repeated: "
            "set generation_kwargs.do_sample: false in its task file"
        )
    until: str | Sequence[str] = options.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    return int(options.get("max_gen_toks") or options.get("max_tokens") or DEFAULT_TOKENS), stop
