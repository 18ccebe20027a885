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
from concurrent.futures import Executor
from dataclasses import replace
from functools import cached_property
from itertools import islice

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
from components.cascade.questions import Questions
from components.cascade.reply_tokens import ends_inside_character
from components.cascade.rows import AskedCall, CascadeRow, Decision, Question
from components.cascade.speculation import Speculation
from components.cascade.steps import (
    Author,
    CascadeAnswer,
    CascadeRequest,
    CascadeStep,
    CascadeSummary,
    CascadeToken,
    Outcome,
)
from components.core.errors import InputError
from components.data.tokenizer import TextTokenizer
from components.model.decoder import Decoder, FinishReason, log_sums
from components.model.decoder_pass import DecoderPass
from components.model.prefix_blocks import PrefixBlocks
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

# How long a step waits for the helper where no row can go on without it.
_PATIENCE_SECONDS = 0.05


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
        questions_at_once: int = 1,
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
            questions_at_once: calls of one request that may be under way at once, in an ``executor`` and without a
                ``shared_rule``. With more than one, a request that has called goes on with a guess at the reply, and
                waits less; its text is the same (``speculation.py``).
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
        self.questions_at_once = questions_at_once if executor is not None and not shared_rule else 1

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


class CascadeDecoding:
    """Requests that are answered together, step by step; they may come and go at any time. For one thread."""

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade
        self._decoder = Decoder(cascade.model, cascade.forward, cascade.prefixes)
        self._rows: list[CascadeRow] = []
        self._added = 0
        self._shared: dict[tuple[float, str], CallRule] = {}
        self._questions = Questions(cascade.helper, cascade.executor)
        self._speculation = Speculation(self._decoder, cascade.tokenizer, cascade.config, self._questions)

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
        row = CascadeRow(
            number=self._added,
            session=secrets.token_hex(8),
            row=self._decoder.add(request.prompt, sampling, read, self._cascade.adapter_number(request.adapter)),
            alternatives=request.alternatives,
            rule=self._rule(budget, request.adapter),
            budget=limits,
            text=bytearray(b"".join(map(self._cascade.tokenizer.token_bytes, request.prompt))),
            most_asked=self._cascade.questions_at_once,
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
        """Advance every request that is not waiting: by a part of a long prompt, one token, or one reply.

        One step for each request that has something to show.
        """
        began = time.perf_counter()
        steps = self._collect(0.0)
        free = [row for row in self._rows if not row.waiting]
        if not free:
            return _by_request(steps or self._collect(_PATIENCE_SECONDS))
        decisions, failed = self._decided(free, began)
        steps += failed
        speaking: list[Decision] = []
        for decision in decisions:
            try:
                if decision.row.draft is not None:
                    self._speculation.draft(decision.row, int(decision.logits.argmax()))
                elif self._calls(decision):
                    self._ask(decision)
                else:
                    speaking.append(decision)
            except Exception as error:
                steps += self._fail(decision.row, error)
        steps += self._speak(speaking)
        steps += self._settled(self._questions.send())
        return _by_request(steps)

    def _decided(self, rows: Sequence[CascadeRow], began: float) -> tuple[list[Decision], list[CascadeStep]]:
        """Decisions of ``rows`` together; if that fails, one by one, so that one bad row stops no other."""
        unread = [row.row.unread for row in rows]
        try:
            return self._decide(rows, began), []
        except Exception as error:
            if len(rows) == 1:
                return [], self._fail(rows[0], error)
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

    def _decide(self, rows: Sequence[CascadeRow], began: float) -> list[Decision]:
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
            Decision(by_row[row], logits, at, log_of_sum, probability, score, seconds)
            for at, (row, log_of_sum, probability, score) in enumerate(found)
        ]

    def _calls(self, decision: Decision) -> bool:
        """Whether this position becomes a call; updates the rule and the limit."""
        row = decision.row
        # Half a character cannot be sent as text.
        called = row.rule.wants(decision.score) and not ends_inside_character(row.text) and row.budget.take()
        row.rule.record(decision.score, called)
        row.counts.decisions += 1
        row.counts.calls += called
        return called

    def _ask(self, decision: Decision) -> None:
        """A call, for the next batch of questions; with a guess at the reply, if there may be one."""
        row, config = decision.row, self._cascade.config
        call = Call(
            session=row.session,
            text=row.text.decode("utf-8", errors="replace"),
            ids=tuple(row.row.ids),
            unit=config.unit,
            max_tokens=config.max_unit_tokens,
        )
        question = Question(row, call)
        row.asked.append(AskedCall(question, decision.alone(), row.row.left))
        self._questions.ask(question)
        self._speculation.begin(row)

    def _collect(self, patience: float) -> list[CascadeStep]:
        """Take in the helper's replies, waiting up to ``patience`` seconds for the first."""
        answered = self._questions.collect(patience)
        steps = self._settled(answered)
        return steps + self._settled(self._questions.send()) if answered else steps

    def _settled(self, answered: Sequence[Question]) -> list[CascadeStep]:
        """What replies to ``answered`` settle, and guesses that can be made now."""
        steps = []
        # A row that was cancelled in the meantime has none.
        for row in {question.row: None for question in answered if question.row in self._rows}:
            try:
                while row.asked and row.asked[0].question.reply is not None:
                    steps.append(self._receive(row))
                self._speculation.begin(row)
            except Exception as error:
                self._drop(row)
                steps.append(CascadeStep(row.number, (), error=error))
        return steps

    def _receive(self, row: CascadeRow) -> CascadeStep:
        """Take in the reply to the first call that is under way: it confirms what follows, or replaces it."""
        first, now = row.asked[0], time.perf_counter()
        question = first.question
        if not isinstance(question.reply, Reply | HelperError):
            assert question.reply is not None
            raise question.reply
        assert question.sent is not None
        waited, row.settled_at = now - max(question.sent, row.settled_at), now
        reply = self._speculation.told(first, question.reply)
        if reply.fault is not None:
            logger.info("the helper's reply cannot be used, the small model continues alone: %s", reply.fault)
        confirmed = self._speculation.confirms(row, first, reply)
        row.asked.popleft()
        row.settled.appendleft(question)
        if not confirmed:
            self._speculation.take_back(row, first)
        row.summary.helper_seconds += waited
        row.summary.helper_model_tokens += question.reply.tokens if isinstance(question.reply, Reply) else 0
        row.summary.empty_calls += reply.call == "empty"
        row.summary.failed_calls += reply.call == "failed"
        ids = reply.ids
        if reply.call != "answered":
            own = first.guessed if confirmed else None
            ids = own or tuple(self._decoder.choose([row.row], first.decision.logits[None]))
            row.summary.small_tokens += 1
        row.summary.helper_tokens += len(reply.ids)
        tokens = self._replied(first.decision, ids, reply.call, waited)
        if confirmed:
            row.summary.add(first.counts)
            return self._shown(row, (*tokens, *first.tokens))
        self._speculation.write(row, ids)
        return self._shown(row, tokens)

    def _replied(
        self, decision: Decision, ids: tuple[int, ...], call: Outcome, waited: float
    ) -> tuple[CascadeToken, ...]:
        """What came of a call, as tokens."""
        author: Author = "helper" if call == "answered" else "small"
        first = self._token(decision, ids[0], author, call, decision.seconds + waited, waited)
        rest = (CascadeToken(id, author, decision.call_probability, 0.0, 0.0, None, call) for id in ids[1:])
        return (first, *rest)

    def _speak(self, decisions: Sequence[Decision]) -> list[CascadeStep]:
        """The small model's own tokens."""
        if not decisions:
            return []
        try:
            tokens = self._decoder.choose([decision.row.row for decision in decisions], _together(decisions))
        except Exception as error:  # one bad row stops no other
            if len(decisions) == 1:
                return self._fail(decisions[0].row, error)
            return [step for decision in decisions for step in self._speak([decision])]
        steps = []
        for decision, id in zip(decisions, tokens, strict=True):
            row, token = decision.row, self._token(decision, id, "small", "none", decision.seconds, 0.0)
            row.counts.small_tokens += 1
            self._speculation.write(row, (id,))
            if row.asked:
                row.asked[-1].tokens.append(token)
            else:
                steps.append(self._shown(row, (token,)))
        return steps

    def _token(
        self, decision: Decision, id: int, author: Author, call: Outcome, seconds: float, waited: float
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

    def _shown(self, row: CascadeRow, tokens: tuple[CascadeToken, ...]) -> CascadeStep:
        """What is certain now; the last of it, if nothing after it is uncertain."""
        if row.row.finish is None or row.asked:
            return CascadeStep(row.number, tokens)
        self._drop(row)
        return CascadeStep(row.number, tokens, row.row.finish, replace(row.summary))

    def _fail(self, row: CascadeRow, error: Exception) -> list[CascadeStep]:
        """End a request with an error; if it stands on a guess, only the guess ends: waiting might not have failed."""
        if row.asked and row.asked[0].state is not None:
            logger.warning("decoding failed after a guess at a reply, which is taken back", exc_info=error)
            self._speculation.wait(row)
            return []
        self._drop(row)
        return [CascadeStep(row.number, (), error=error)]

    def _drop(self, row: CascadeRow) -> None:
        self._decoder.remove(row.row)
        self._rows.remove(row)
        if row.asked:
            self._questions.withdraw(row.asked.popleft().question)  # counted among its calls
        self._speculation.abandon(row)
        if self._cascade.helper is not None:
            self._cascade.helper.forget(row.session)


def _by_request(steps: Sequence[CascadeStep]) -> list[CascadeStep]:
    """One step for each request: who follows them may leave a request after any."""
    found: dict[int, CascadeStep] = {}
    for step in steps:
        before = found.get(step.request)
        found[step.request] = step if before is None else replace(step, tokens=before.tokens + step.tokens)
    return list(found.values())


def _together(decisions: Sequence[Decision]) -> Float[Tensor, "rows vocab"]:
    """The logits of ``decisions``; without a copy if they are all that were made together."""
    whole = decisions[0].batch
    if len(decisions) == len(whole) and all(decision.batch is whole for decision in decisions):
        return whole
    return torch.stack([decision.logits for decision in decisions])
