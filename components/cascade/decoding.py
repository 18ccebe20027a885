"""The cascade: a small model writes, and where it asks for help, a helper writes the next token, word or entity.

Each step reads the unread tokens of all rows of a batch, computes P(CALL) and the small model's own next token, and
asks the helper about all rows that call, together. ``<CALL>`` enters neither the context nor the answer: in training,
the true text stood there, so the model has never read the token. If a call brings no usable reply, only the help is
lost: the small model's own token, which has been computed already, is used instead.
"""

import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from components.cascade.adapters import CascadeAdapter
from components.cascade.calibration import CallCalibration
from components.cascade.call_budget import CallBudget
from components.cascade.call_rule import CallRule, FixedThreshold, call_rule
from components.cascade.call_scores import call_score
from components.cascade.config import CascadeConfig
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.reply_tokens import ends_inside_character, reply_fault, reply_ids
from components.core.errors import InputError
from components.data.tokenizer import TextTokenizer
from components.model.decoder import Decoder, FinishReason, Guide, Row, log_sums
from components.model.decoder_pass import DecoderPass
from components.model.prefix_blocks import PrefixBlocks
from components.model.sampling import Sampling
from components.model.transformer import KeyValueCache, Transformer

__all__ = [
    "Author",
    "Cascade",
    "CascadeAnswer",
    "CascadeDecoding",
    "CascadeRequest",
    "CascadeStep",
    "CascadeSummary",
    "CascadeToken",
    "FinishReason",
    "Outcome",
]

logger = logging.getLogger(__name__)

Author = Literal["small", "helper"]
Outcome = Literal["none", "answered", "empty", "failed"]

# How long a step waits for the helper where no row can go on without it.
_PATIENCE_SECONDS = 0.05


@dataclass(frozen=True)
class CascadeRequest:
    """What to continue, and how."""

    prompt: Sequence[int]
    """Ids; a document starts with the boundary token."""
    sampling: Sampling
    """As for ``generate``; ``<CALL>`` is suppressed in any case."""
    budget: float | None = None
    """Share of calls; ``None`` takes the config's. The request never makes more than floor(budget * max_tokens)."""
    max_calls: int | None = None
    """A further limit to the calls."""
    alternatives: int = 0
    """Likeliest tokens to report beside each token."""
    guide: Guide | None = None
    """Which tokens the answer may go on with; a reply that it does not accept cannot be used. Of this request only."""
    adapter: str = ""
    """One of the cascade's; empty: the small model alone."""


@dataclass(frozen=True)
class CascadeToken:
    """One token of an answer."""

    id: int
    """Of the small model's tokenizer, never ``<CALL>``."""
    author: Author
    """Who wrote it."""
    call_probability: float
    """P(CALL) at the decision that it comes from; the tokens of one reply share a decision."""
    seconds: float
    """Wall time of that decision, the helper's answer included; 0 for the further tokens of a reply."""
    helper_seconds: float
    """Of these, the time that the decision waited for the helper."""
    logprob: float | None
    """Natural log-probability under the small model without suppressed tokens; ``None`` within a reply, where the
    small model was not asked."""
    call: Outcome = "none"
    """Result of the call made here: answered, nothing to add (``empty``), or ``failed``. The last two keep the small
    model's own token."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """Likeliest ids at this decision with their log-probabilities, best first."""


@dataclass
class CascadeSummary:
    """One request in numbers."""

    decisions: int = 0
    """Positions at which the small model chose between its token and a call."""
    calls: int = 0
    """Calls made, answered or not."""
    failed_calls: int = 0
    """Calls that ended in an error, a timeout or a reply that is not text."""
    empty_calls: int = 0
    """Calls to which the helper had nothing to add."""
    small_tokens: int = 0
    """Tokens of the answer by the small model."""
    helper_tokens: int = 0
    """Tokens of the answer by the helper, in the small model's tokenizer."""
    helper_model_tokens: int = 0
    """Tokens that the helper itself had to generate."""
    helper_seconds: float = 0.0
    """Time that the request waited for the helper."""

    @property
    def degraded(self) -> bool:
        """Whether a call failed. "Nothing to add" is an answer."""
        return self.failed_calls > 0


@dataclass(frozen=True)
class CascadeStep:
    """What one step adds to one request."""

    request: int
    """Number of the request, in the order in which they were added."""
    tokens: tuple[CascadeToken, ...]
    finish: FinishReason | None = None
    """Set on the last step of a request."""
    summary: CascadeSummary | None = None
    """Set on the last step."""
    error: Exception | None = None
    """Why this valid request had to be dropped; no more steps follow. Other requests continue."""


@dataclass(frozen=True)
class CascadeAnswer:
    """A whole answer."""

    tokens: tuple[CascadeToken, ...]
    finish: FinishReason
    summary: CascadeSummary

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


class Cascade:
    """A small model, its calibration and a helper."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: TextTokenizer,
        helper: Helper | None,
        calibration: CallCalibration,
        config: CascadeConfig,
        *,
        shared_rule: bool = False,
        executor: Executor | None = None,
        prefixes: PrefixBlocks | None = None,
        adapters: Mapping[str, CascadeAdapter] | None = None,
    ) -> None:
        """
        Arguments:
            model: in evaluation mode, with the vocabulary of ``tokenizer``.
            helper: ``None`` for the plain model, which asks no one.
            calibration: made for this model.
            shared_rule: carry the running quantile from one request to the next, so that all requests together keep
                to the budget (for measurements). Otherwise every request starts from the calibration, and its answer
                does not depend on the others.
            executor: where to ask the helper while the rows that did not call continue; ``None`` asks in ``step``.
            prefixes: where prompts are kept for prompts that begin alike; ``None`` reads each anew.
            adapters: of the small model, by the names that requests give them.
        """
        if model.vocab_size != tokenizer.vocab_size:
            raise InputError(
                f"the model has {model.vocab_size} tokens and its tokenizer {tokenizer.vocab_size}: they do not belong "
                "together"
            )
        self.model, self.tokenizer, self.helper = model, tokenizer, helper
        self.calibration, self.config = calibration, config
        self.shared_rule, self.executor, self.prefixes = shared_rule, executor, prefixes
        self.adapters = dict(adapters or {})

    @cached_property
    def forward(self) -> DecoderPass:
        """The small model as all batches compute it; its weights are taken when the first of them begins."""
        return DecoderPass(self.model, [adapter.weights for adapter in self.adapters.values()])

    def adapter_number(self, name: str) -> int:
        """As ``forward`` knows it; 0 for no name. Raises ``InputError`` if there is no such adapter."""
        if name and name not in self.adapters:
            raise InputError(f"there is no adapter {name!r} here; there are {', '.join(self.adapters) or 'none'}")
        return list(self.adapters).index(name) + 1 if name else 0

    def decoding(self) -> "CascadeDecoding":
        """An empty batch to add requests to."""
        return CascadeDecoding(self)

    def generate(self, requests: Iterable[CascadeRequest], batch: int = 16) -> Iterator[CascadeStep]:
        """Answer all ``requests``, ``batch`` of them at a time; their steps come as they are made, mixed.

        Raises the error of the first that fails.
        """
        decoding, waiting = self.decoding(), iter(requests)
        try:
            while True:
                for request in islice(waiting, batch - decoding.active):
                    decoding.add(request)
                if not decoding.active:
                    return
                for step in decoding.step():
                    if step.error is not None:
                        raise step.error
                    yield step
        finally:
            decoding.close()

    def answers(self, requests: Sequence[CascadeRequest], batch: int = 16) -> list[CascadeAnswer]:
        """The whole answer to each request, in their order."""
        tokens: list[list[CascadeToken]] = [[] for _ in requests]
        answers: dict[int, CascadeAnswer] = {}
        for step in self.generate(requests, batch):
            tokens[step.request] += step.tokens
            if step.finish is not None and step.summary is not None:
                answers[step.request] = CascadeAnswer(tuple(tokens[step.request]), step.finish, step.summary)
        return [answers[number] for number in range(len(requests))]


@dataclass(eq=False)
class _Row:
    """One request between its steps."""

    number: int
    session: str
    row: Row
    """Its text in the decoder."""
    alternatives: int
    rule: CallRule
    budget: CallBudget
    text: bytearray
    summary: CascadeSummary = field(default_factory=CascadeSummary)
    waiting: bool = False


@dataclass(frozen=True, eq=False)
class _Decision:
    """What the small model says at one position."""

    row: _Row
    batch: Float[Tensor, "rows vocab"]
    """Logits of all decisions that were made together; those of suppressed tokens are -inf."""
    at: int
    """Which row of them this one's are."""
    log_sum: float
    """log of the sum of their exp: a logit minus this is a log-probability."""
    call_probability: float
    score: float
    seconds: float

    @property
    def logits(self) -> Float[Tensor, "vocab"]:
        return self.batch[self.at]


@dataclass(frozen=True, eq=False)
class _Question:
    """Calls under way, and since when."""

    decisions: list[_Decision]
    asked: float


class CascadeDecoding:
    """Requests that are answered together, step by step; they may come and go at any time. For one thread."""

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade
        self._decoder = Decoder(cascade.model, cascade.forward, cascade.prefixes)
        self._rows: list[_Row] = []
        self._added = 0
        self._shared: dict[tuple[float, str], CallRule] = {}
        self._asked: dict[Future[list[Reply | HelperError]], _Question] = {}

    @property
    def active(self) -> int:
        """Requests not finished."""
        return len(self._rows)

    def add(self, request: CascadeRequest, read: KeyValueCache | None = None) -> int:
        """Take in a request; its number. ``read`` has read the beginning of its prompt, fewer tokens than all.

        Raises ``InputError`` for a prompt that is empty, has unknown ids or leaves no room, for a budget outside 0 to 1
        and for an unknown adapter.
        """
        call_id, vocabulary = self._cascade.tokenizer.call_id, self._cascade.model.vocab_size
        if foreign := [id for id in request.prompt if not 0 <= id < vocabulary or id == call_id]:
            raise InputError(
                f"token id {foreign[0]} cannot be part of a prompt: ids go from 0 to {vocabulary - 1}, and {call_id}, "
                "<CALL>, is never read"
            )
        sampling = replace(request.sampling, suppress_ids=request.sampling.suppress_ids | {call_id})
        budget = self._cascade.config.budget if request.budget is None else request.budget
        limits = CallBudget.of(budget, self._decoder.room(request.prompt, sampling), request.max_calls)
        row = _Row(
            number=self._added,
            session=secrets.token_hex(8),
            row=self._decoder.add(request.prompt, sampling, read, self._cascade.adapter_number(request.adapter)),
            alternatives=request.alternatives,
            rule=self._rule(budget, request.adapter),
            budget=limits,
            text=bytearray(b"".join(map(self._cascade.tokenizer.token_bytes, request.prompt))),
        )
        row.row.guide = request.guide
        self._rows.append(row)
        self._added += 1
        return row.number

    def summary(self, request: int) -> CascadeSummary:
        """The numbers of an unfinished request; they go on counting until it is finished or dropped."""
        return next(row.summary for row in self._rows if row.number == request)

    def cancel(self, request: int) -> None:
        """Drop a request; no effect if it is finished."""
        for row in self._rows:
            if row.number == request:
                self._drop(row)
                return

    def close(self) -> None:
        """Drop all requests."""
        for row in list(self._rows):
            self._drop(row)

    @torch.inference_mode()
    def step(self) -> list[CascadeStep]:
        """Advance every request that is not waiting: by a part of a long prompt, one token, or one reply."""
        began = time.perf_counter()
        steps = self._collect(0.0)
        free = [row for row in self._rows if not row.waiting]
        if not free:
            return steps or self._collect(_PATIENCE_SECONDS)
        decisions, failed = self._decided(free, began)
        steps += failed
        calling: list[_Decision] = []
        speaking: list[_Decision] = []
        for decision in decisions:
            try:
                (calling if self._calls(decision) else speaking).append(decision)
            except Exception as error:
                steps.append(self._fail(decision.row, error))
        steps += self._speak(speaking)
        if calling:
            steps += self._ask(calling)
        return steps

    def _decided(self, rows: Sequence[_Row], began: float) -> tuple[list[_Decision], list[CascadeStep]]:
        """Decisions of ``rows`` together; if that fails, one by one, so that one bad row stops no other."""
        unread = [row.row.unread for row in rows]
        try:
            return self._decide(rows, began), []
        except Exception as error:
            if len(rows) == 1:
                return [], [self._fail(rows[0], error)]
        decisions, failed = [], []
        for row, ids in zip(rows, unread, strict=True):
            # Restore the old state: some or all of the pass may have succeeded.
            self._decoder.rewind(row.row, ids)
            found, failure = self._decided([row], began)
            decisions += found
            failed += failure
        return decisions, failed

    def _rule(self, budget: float, adapter: str) -> CallRule:
        cascade = self._cascade
        if cascade.helper is None:
            return FixedThreshold(float("inf"))
        own = cascade.adapters[adapter].calibration if adapter else None
        calibration = cascade.calibration if own is None else own
        if not cascade.shared_rule:
            return call_rule(cascade.config, budget, calibration)
        if (budget, adapter) not in self._shared:
            self._shared[budget, adapter] = call_rule(cascade.config, budget, calibration)
        return self._shared[budget, adapter]

    def _decide(self, rows: Sequence[_Row], began: float) -> list[_Decision]:
        """Read the unread tokens of ``rows``; what the model says of those that are complete."""
        call_id, kind = self._cascade.tokenizer.call_id, self._cascade.config.call_score
        complete, logits = self._decoder.read_all([row.row for row in rows])
        if not complete:
            return []
        doubts = call_score(logits, call_id, kind) if kind != "call" else None
        # As ``call_probability``, with a sum over the others that is needed anyway.
        call = logits[:, call_id].double()
        logits[:, call_id] = float("-inf")
        log_sum = log_sums(logits)
        probabilities = torch.sigmoid(call - log_sum)
        self._decoder.suppress(complete, logits)
        if any(len(row.suppressed) > 1 or row.guide is not None for row in complete):
            log_sum = log_sums(logits)
        scores = (doubts if doubts is not None else probabilities).tolist()
        seconds = time.perf_counter() - began
        by_row = {row.row: row for row in rows}
        found = zip(complete, log_sum.tolist(), probabilities.tolist(), scores, strict=True)
        return [
            _Decision(by_row[row], logits, at, log_of_sum, probability, score, seconds)
            for at, (row, log_of_sum, probability, score) in enumerate(found)
        ]

    def _calls(self, decision: _Decision) -> bool:
        """Whether this position becomes a call; updates the rule and the limit."""
        row = decision.row
        # Half a character cannot be sent as text.
        called = row.rule.wants(decision.score) and not ends_inside_character(row.text) and row.budget.take()
        row.rule.record(decision.score, called)
        row.summary.decisions += 1
        row.summary.calls += called
        return called

    def _ask(self, decisions: list[_Decision]) -> list[CascadeStep]:
        """Send the calls of a step to the helper together."""
        helper, config = self._cascade.helper, self._cascade.config
        assert helper is not None
        calls = [
            Call(
                session=decision.row.session,
                text=decision.row.text.decode("utf-8", errors="replace"),
                ids=tuple(decision.row.row.ids),
                unit=config.unit,
                max_tokens=config.max_unit_tokens,
            )
            for decision in decisions
        ]
        question = _Question(decisions, time.perf_counter())
        if self._cascade.executor is None:
            return self._answer(question, _answers(helper, calls))
        for decision in decisions:
            decision.row.waiting = True
        self._asked[self._cascade.executor.submit(_answers, helper, calls)] = question
        return []

    def _collect(self, patience: float) -> list[CascadeStep]:
        """Collect the helper's answers, waiting up to ``patience`` seconds for the first."""
        if not self._asked:
            return []
        done, _ = wait(self._asked, timeout=patience, return_when=FIRST_COMPLETED)
        steps = []
        for future in done:
            question = self._asked.pop(future)
            for decision in question.decisions:
                decision.row.waiting = False
            try:
                replies = future.result()
            except Exception as error:  # a helper that is not wrapped in a resilient one
                steps += [self._fail(decision.row, error) for decision in self._present(question)]
            else:
                steps += self._answer(question, replies)
        return steps

    def _answer(self, question: _Question, replies: Sequence[Reply | HelperError]) -> list[CascadeStep]:
        waited = time.perf_counter() - question.asked
        told = dict(zip(question.decisions, replies, strict=True))
        steps = []
        for decision in self._present(question):
            try:
                steps.append(self._receive(decision, told[decision], waited))
            except Exception as error:
                steps.append(self._fail(decision.row, error))
        return steps

    def _present(self, question: _Question) -> list[_Decision]:
        """The rows that asked, without those that were cancelled in the meantime."""
        return [decision for decision in question.decisions if decision.row in self._rows]

    def _receive(self, decision: _Decision, reply: Reply | HelperError, waited: float) -> CascadeStep:
        row, tokenizer = decision.row, self._cascade.tokenizer
        row.summary.helper_seconds += waited
        seconds = decision.seconds + waited
        if isinstance(reply, Reply):
            row.summary.helper_model_tokens += reply.tokens
            if not reply.text.strip():
                row.summary.empty_calls += 1
                return self._speak_after_call(decision, "empty", seconds, waited)
            fault: object = reply_fault(reply.text, self._cascade.config.max_unit_tokens, tokenizer.special.ids)
        else:
            fault = reply
        if fault is not None or not isinstance(reply, Reply):
            logger.info("the helper's reply cannot be used, the small model continues alone: %s", fault)
            row.summary.failed_calls += 1
            return self._speak_after_call(decision, "failed", seconds, waited)
        ids = reply_ids(tokenizer, row.row.ids, reply.text)[: row.row.left]
        if row.row.guide is not None and not row.row.guide.accepts(row.row.answer, ids):
            row.summary.failed_calls += 1
            return self._speak_after_call(decision, "failed", seconds, waited)
        row.summary.helper_tokens += len(ids)
        first = self._token(decision, ids[0], "helper", "answered", seconds, waited)
        rest = [CascadeToken(id, "helper", decision.call_probability, 0.0, 0.0, None, "answered") for id in ids[1:]]
        return self._emit(row, (first, *rest))

    def _speak(self, decisions: Sequence[_Decision]) -> list[CascadeStep]:
        """The small model's own tokens."""
        if not decisions:
            return []
        try:
            tokens = self._decoder.choose([decision.row.row for decision in decisions], _together(decisions))
        except Exception as error:  # one bad row stops no other
            if len(decisions) == 1:
                return [self._fail(decisions[0].row, error)]
            return [step for decision in decisions for step in self._speak([decision])]
        steps = []
        for decision, id in zip(decisions, tokens, strict=True):
            decision.row.summary.small_tokens += 1
            token = self._token(decision, id, "small", "none", decision.seconds, 0.0)
            steps.append(self._emit(decision.row, (token,)))
        return steps

    def _speak_after_call(self, decision: _Decision, call: Outcome, seconds: float, waited: float) -> CascadeStep:
        """The small model's own token, in the place of a helper's."""
        (id,) = self._decoder.choose([decision.row.row], decision.logits[None])
        decision.row.summary.small_tokens += 1
        return self._emit(decision.row, (self._token(decision, id, "small", call, seconds, waited),))

    def _token(
        self, decision: _Decision, id: int, author: Author, call: Outcome, seconds: float, waited: float
    ) -> CascadeToken:
        alternatives: tuple[tuple[int, float], ...] = ()
        if decision.row.alternatives:
            best = decision.logits.topk(min(decision.row.alternatives, len(decision.logits)))
            found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            alternatives = tuple((other, logit - decision.log_sum) for other, logit in found)
        return CascadeToken(
            id=id,
            author=author,
            call_probability=decision.call_probability,
            seconds=seconds,
            helper_seconds=waited,
            logprob=decision.logits[id].item() - decision.log_sum,
            call=call,
            alternatives=alternatives,
        )

    def _emit(self, row: _Row, tokens: tuple[CascadeToken, ...]) -> CascadeStep:
        """Write ``tokens`` into the row's context."""
        self._decoder.write(row.row, [token.id for token in tokens])
        for token in tokens:
            row.text += self._cascade.tokenizer.token_bytes(token.id)
        if row.row.finish is None:
            return CascadeStep(row.number, tokens)
        self._drop(row)
        return CascadeStep(row.number, tokens, row.row.finish, replace(row.summary))

    def _fail(self, row: _Row, error: Exception) -> CascadeStep:
        self._drop(row)
        return CascadeStep(row.number, (), error=error)

    def _drop(self, row: _Row) -> None:
        self._decoder.remove(row.row)
        self._rows.remove(row)
        if self._cascade.helper is not None:
            self._cascade.helper.forget(row.session)


def _together(decisions: Sequence[_Decision]) -> Float[Tensor, "rows vocab"]:
    """The logits of ``decisions``; without a copy if they are all that were made together."""
    whole = decisions[0].batch
    if len(decisions) == len(whole) and all(decision.batch is whole for decision in decisions):
        return whole
    return torch.stack([decision.logits for decision in decisions])


def _answers(helper: Helper, calls: Sequence[Call]) -> list[Reply | HelperError]:
    """One reply or error for each call, also from a helper that gives up on all of them at once."""
    try:
        replies = helper.answer(calls)
    except HelperError as error:
        return [error] * len(calls)
    if len(replies) != len(calls):
        raise ValueError(f"the helper {helper.name} gave {len(replies)} replies to {len(calls)} calls")
    return replies
