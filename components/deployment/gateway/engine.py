"""The gateway's engine: requests in, deltas out, with another server's forward pass.

It has the bundle's tokenizer, calibration and helper, and not its weights. Each answer has a thread of its own, which
mostly waits; the server behind batches what comes together.
"""

import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from components.cascade.call_budget import CallBudget
from components.cascade.decoding import CascadeSummary
from components.cascade.helpers.base import Helper
from components.core.artifact import RECORD
from components.core.errors import ArtifactError, InputError, LacewingError, ServiceError
from components.core.records import read_record
from components.data.tokenizer import TextTokenizer
from components.delegation.bundled import DelegationRecord
from components.deployment.bundle import Manifest
from components.deployment.decoding import Delta, Request, answer_room
from components.deployment.deferred_helper import opened_helper
from components.deployment.engine import DecodingError, Deliver, QueueFullError
from components.deployment.gateway.answering import GatewayAnswer
from components.deployment.gateway.config import GatewayConfig
from components.deployment.gateway.drawing import drawing_of
from components.deployment.gateway.probe import check_upstream
from components.deployment.gateway.upstream import (
    ALWAYS,
    MOST_BIAS,
    SUPPRESSED,
    RefusedError,
    Upstream,
    open_upstream,
)
from components.deployment.gateway.writing import Writing
from components.deployment.prompt_times import HelperCall
from components.model.bundle import Bundle

logger = logging.getLogger(__name__)


class GatewayGeneration:
    """A submitted request."""

    def __init__(self, request: Request, answer: GatewayAnswer, writing: Writing, deliver: Deliver) -> None:
        self.request, self.answer, self.writing, self.deliver = request, answer, writing, deliver
        self.withdrawn = threading.Event()
        self.work: Future[None] | None = None

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def generated_tokens(self) -> int:
        return self.summary.small_tokens + self.summary.helper_tokens

    @property
    def summary(self) -> CascadeSummary:
        """Who wrote how many tokens, and the cost."""
        return self.answer.summary

    @property
    def helper_calls(self) -> Sequence[HelperCall]:
        """What came of each call, and how long it took."""
        return self.answer.helper_calls

    def cancel(self) -> None:
        """The piece that the server is writing comes to its end; nothing follows."""
        self.withdrawn.set()
        if self.work is not None:
            self.work.cancel()


class GatewayEngine:
    """Answers for the bundle in ``folder`` with the server at ``cfg.upstream``. Close it, or use it as a context
    manager."""

    def __init__(self, folder: Path, cfg: GatewayConfig, key: str = "") -> None:
        """Reach the server, check that it can run the cascade, and open the helper.

        Raises ``UpstreamError`` if the server cannot be used, ``ArtifactError`` if the bundle is damaged or was
        calibrated before there was ``logit_margin``, ``InputError`` if it is a plain model.

        Arguments:
            folder: a bundle.
            cfg: the servers, and the gateway's limits.
            key: for the server behind, if it asks for one.
        """
        self.manifest, self.tokenizer, self._record = _opened(folder, cfg)
        self._config = self._record.cascade
        self._calibration = self._record.calibration
        self._calibration.levels("logit_margin")
        self._piece_tokens = cfg.piece_tokens
        self.call_budget = self._config.budget
        """Share of the decisions that become calls where a request does not say otherwise."""
        self._upstream = open_upstream(
            cfg.upstream, self.tokenizer, cfg.upstream_model, key, cfg.upstream_timeout_seconds
        )
        self.helper: Helper | None = None
        """The helper that the model asks; ``None`` if it answers alone."""
        try:
            check_upstream(self._upstream, self.tokenizer, cfg.upstream)
            self.context_length = _context(self._upstream, self.manifest)
            """Tokens of a prompt and its answer together: what both the model and the server can hold."""
            if self.call_budget > 0.0:
                self.helper = opened_helper(self._record, folder, "cpu", cfg.helper_required)
        except BaseException:
            self._upstream.close()
            raise
        self.capacity = cfg.max_concurrent_requests + cfg.max_queued_requests
        self._most_active = cfg.max_concurrent_requests
        self._threads = ThreadPoolExecutor(cfg.max_concurrent_requests, "answer")
        self._changed = threading.Lock()
        self._unfinished: list[GatewayGeneration] = []
        self._closed = False

    @property
    def adapters(self) -> Sequence[str]:
        """None: the weights are the other server's."""
        return ()

    @property
    def presence_penalty(self) -> float:
        """None: a penalty costs a request for each token."""
        return 0.0

    @property
    def active(self) -> int:
        """Requests being answered."""
        return min(len(self._unfinished), self._most_active)

    @property
    def queued(self) -> int:
        """Requests waiting for a thread."""
        return len(self._unfinished) - self.active

    @property
    def running(self) -> bool:
        """Whether requests are taken."""
        return not self._closed

    @property
    def upstream_name(self) -> str:
        """The server behind, for people."""
        return self._upstream.name

    def submit(self, requests: Sequence[tuple[Request, Deliver]]) -> list[GatewayGeneration]:
        """Queue all of ``requests`` or none; their deltas are delivered from other threads.

        Raises ``InputError`` for what cannot be answered, ``QueueFullError`` if there is no place now.
        """
        self.check_room(len(requests))
        generations = [self._generation(request, deliver) for request, deliver in requests]
        with self._changed:
            self.check_room(len(generations))  # again: others may have come meanwhile
            self._unfinished += generations
        for generation in generations:
            generation.work = self._threads.submit(self._answer, generation)
            generation.work.add_done_callback(lambda _, done=generation: self._forget(done))  # type: ignore[misc]
        return generations

    def check_room(self, count: int) -> None:
        """Raise the errors of ``submit`` that do not depend on what the ``count`` requests say."""
        if self._closed:
            raise ServiceError("the server is shutting down")
        if count > self.capacity:
            raise InputError(f"{count} prompts in one request, but this server takes at most {self.capacity}")
        if len(self._unfinished) + count > self.capacity:
            raise QueueFullError(
                f"the server is busy: {self.active} requests are being answered and {self.queued} are waiting; try "
                "again shortly"
            )

    def bias(self, budget: float) -> float:
        """The logit bias of ``<CALL>`` that makes calls of a share ``budget`` of the decisions.

        It is minus the threshold on ``logit_margin``. Raises ``InputError`` if the server needs a bias and none within
        OpenAI's bounds is.
        """
        threshold = self._calibration.threshold(budget, "logit_margin")
        if threshold in (ALWAYS, SUPPRESSED) or self._upstream.decides_apart:
            return -threshold
        if abs(threshold) >= MOST_BIAS:
            raise InputError(
                f"a call budget of {budget:g} needs a logit bias of {-threshold:.0f} on <CALL>, and servers allow -100 "
                "to 100 only: serve this model with `lacewing serve`"
            )
        return -threshold

    def end_requests(self) -> None:
        """Take no more requests, and end all that run or wait with an error."""
        with self._changed:
            self._closed = True
            unfinished = list(self._unfinished)
        for generation in unfinished:
            generation.cancel()
            generation.deliver(ServiceError("the server is shutting down"))

    def close(self) -> None:
        """Stop; running requests end with an error."""
        self.end_requests()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._upstream.close()
        if self.helper is not None:
            self.helper.close()

    def __enter__(self) -> "GatewayEngine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _generation(self, request: Request, deliver: Deliver) -> GatewayGeneration:
        drawing = drawing_of(request, secrets.randbits(31), self._upstream.counts_answers)
        tokenizer = self.tokenizer
        room = answer_room(request.prompt, self.context_length, tokenizer.vocab_size, tokenizer.call_id)
        max_tokens = room if request.max_tokens is None else min(request.max_tokens, room)
        budget = self.call_budget if request.call_budget is None else request.call_budget
        answer = GatewayAnswer(
            self._upstream,
            self.helper,
            tokenizer,
            self._config,
            request.prompt,
            max_tokens=max_tokens,
            piece_tokens=self._piece_tokens,
            bias=self.bias(budget),
            budget=CallBudget.of(budget, max_tokens, request.max_calls),
            drawing=drawing,
        )
        return GatewayGeneration(request, answer, Writing(tokenizer, request.prompt, request.stops), deliver)

    def _answer(self, generation: GatewayGeneration) -> None:
        if generation.request.on_begin is not None:
            generation.request.on_begin()
        try:
            for delta in self._deltas(generation):
                if generation.withdrawn.is_set():
                    return
                generation.deliver(delta)
        except LacewingError as error:
            # What a server said may be what it was asked.
            logger.warning("a request ended early: %s", error.logged if isinstance(error, RefusedError) else error)
            generation.deliver(error)
        except Exception:
            logger.exception("decoding failed")
            generation.deliver(DecodingError("decoding failed; the server's log says why"))

    def _deltas(self, generation: GatewayGeneration) -> Iterator[Delta]:
        answer, writing = generation.answer, generation.writing
        for step in answer:
            delta = writing.push(step.author, step.ids)
            if finish := delta.finish or step.finish:
                yield writing.end(delta.text, finish, answer.summary.degraded)
                return
            if delta.text:
                yield delta

    def _forget(self, generation: GatewayGeneration) -> None:
        with self._changed:
            if generation in self._unfinished:
                self._unfinished.remove(generation)


def _opened(folder: Path, cfg: GatewayConfig) -> tuple[Manifest, TextTokenizer, DelegationRecord]:
    """What the gateway needs of a bundle, with the helper and the budget of ``cfg``."""
    path = folder / Bundle.MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is not a bundle: it has no {path.name}. Give the folder of a bundle artifact")
    if (folder / RECORD).is_file():
        Bundle.open(folder).verify()
    record = DelegationRecord.load(folder)
    if record is None:
        raise InputError(
            f"the bundle in {folder} is a plain model, which asks nobody, so a gateway has nothing to add: let clients "
            "ask the server itself, with a logit bias of -100 on <CALL>"
        )
    cascade = record.cascade
    if cfg.call_budget is not None:
        cascade = cascade.model_copy(update={"budget": cfg.call_budget})
    if cfg.helper:
        named = {**cascade.helper.model_dump(), "kind": "endpoint", "url": cfg.helper, "name": cfg.helper_model}
        cascade = type(cascade).model_validate({**cascade.model_dump(), "helper": named})
    manifest = read_record(path, Manifest, "a manifest")
    return manifest, TextTokenizer.load(folder), record.model_copy(update={"cascade": cascade})


def _context(upstream: Upstream, manifest: Manifest) -> int:
    theirs = upstream.context_length()
    if theirs is not None and theirs < manifest.context_length:
        logger.warning(
            "%s holds %d tokens, the model %d: longer texts are refused", upstream.name, theirs, manifest.context_length
        )
        return theirs
    return manifest.context_length
