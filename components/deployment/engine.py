"""The engine: a loaded bundle and one thread that decodes many requests together.

In every round each request advances by a part of its prompt, one token or one reply, so that all streams progress
together and a long answer does not delay a short one. One forward pass serves them all. There is one thread, because
several threads would compete for the cores of a CPU. The helper is asked in other threads: while one request waits for
a reply, the others continue.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import torch

from components.cascade.adapters import CascadeAdapter
from components.cascade.calibration import NEVER_CALLS
from components.cascade.config import CascadeConfig
from components.cascade.decoding import Cascade, CascadeDecoding, CascadeStep, CascadeSummary
from components.cascade.helpers.base import Helper
from components.core.errors import InputError, LacewingError, ServiceError
from components.deployment.adapters import AdapterSources
from components.deployment.bundle import LoadedBundle, load_bundle
from components.deployment.decoding import Decoding, Delta, Request
from components.deployment.deferred_helper import opened_helper
from components.deployment.forward_threads import forward_threads
from components.deployment.prompt_times import HelperCall
from components.model.prefix_blocks import PrefixBlocks

logger = logging.getLogger(__name__)

NO_ADAPTERS = AdapterSources()
Deliver = Callable[["Delta | LacewingError"], None]
P = ParamSpec("P")
T = TypeVar("T")


class QueueFullError(ServiceError):
    """The queue is full; the caller should try again later."""


class DecodingError(ServiceError):
    """The model failed on a valid request."""


class Generation:
    """A submitted request: ``deliver`` receives its deltas until one has ``finish``, or an error."""

    def __init__(self, decoding: Decoding, deliver: Deliver, engine: "Engine") -> None:
        self.decoding = decoding
        self.deliver = deliver
        self._engine = engine

    @property
    def prompt_tokens(self) -> int:
        return len(self.decoding.request.prompt)

    @property
    def generated_tokens(self) -> int:
        return self.decoding.generated

    @property
    def summary(self) -> CascadeSummary:
        """Who wrote how many tokens, and the cost."""
        return self.decoding.summary

    @property
    def helper_calls(self) -> Sequence[HelperCall]:
        """What came of each call, and how long it took."""
        return self.decoding.helper_calls

    def cancel(self) -> None:
        """Release the slot; nothing is delivered after the current turn."""
        self._engine.withdraw(self)


class Engine:
    """Decodes requests against one bundle. Close it, or use it as a context manager."""

    def __init__(
        self,
        folder: Path,
        max_concurrent_requests: int = 8,
        max_queued_requests: int = 64,
        threads: int = 0,
        device: str = "auto",
        call_budget: float | None = None,
        helper_required: bool = True,
        dtype: Literal["float32", "bfloat16"] = "float32",
        adapters: AdapterSources = NO_ADAPTERS,
        questions_at_once: int = 1,
    ) -> None:
        """Load the bundle in ``folder``, open its helper and start the decode thread.

        Raises ``ArtifactError`` if the bundle or an adapter is missing, truncated or altered or they do not belong
        together, and if its helper cannot be opened what is wrong with it.

        Arguments:
            folder: a bundle.
            max_concurrent_requests: prompts decoded together.
            max_queued_requests: prompts that may wait beyond those.
            threads: CPU threads of the forward pass; 0: see ``forward_threads``.
            device: ``cpu``, ``cuda``, or ``auto`` for the GPU if there is one.
            call_budget: share of the decisions that become calls, instead of the bundle's; 0 opens no helper.
            helper_required: ``False`` answers without a helper that is not there yet, and says so in the answers.
            dtype: of weights and cache.
            adapters: that requests may name.
            questions_at_once: calls of one request that may be under way at once, see ``Cascade``.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        bundle = load_bundle(folder, device)
        loaded = adapters.load(bundle.model, bundle.delegation)  # before the weights are rounded: they are compared
        bundle.model.to(getattr(torch, dtype))
        self.manifest, self.model, self.tokenizer = bundle.manifest, bundle.model, bundle.tokenizer
        self.helper = _helper(bundle, folder, device, call_budget, helper_required)
        """The helper that the model asks; ``None`` if it answers alone."""
        prefixes = PrefixBlocks(max_concurrent_requests * self.context_length)
        self._cascade = _cascade(bundle, self.helper, call_budget, prefixes, loaded, questions_at_once)
        self.capacity = max_concurrent_requests + max_queued_requests
        self._max_active = max_concurrent_requests
        self._active: list[Generation] = []
        self._waiting: deque[Generation] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # What follows belongs to the decode thread.
        self._batch: CascadeDecoding = self._cascade.decoding()
        self._rows: dict[int, Generation] = {}
        self._scoring: deque[Generation] = deque()
        self._thread = threading.Thread(target=self._decode, args=(threads,), name="decode", daemon=True)
        self._thread.start()

    @property
    def context_length(self) -> int:
        """Tokens of a prompt and its answer together."""
        return self.model.config.context_length

    @property
    def call_budget(self) -> float:
        """Share of the decisions that become calls where a request does not say otherwise."""
        return self._cascade.config.budget if self.helper is not None else 0.0

    @property
    def presence_penalty(self) -> float:
        """Penalty on tokens that an answer holds already, where a request does not say otherwise."""
        return self.manifest.presence_penalty

    @property
    def adapters(self) -> Sequence[str]:
        """Names of the adapters that requests may choose."""
        return list(self._cascade.adapters)

    @property
    def active(self) -> int:
        """Requests being answered."""
        return len(self._active)

    @property
    def queued(self) -> int:
        """Requests waiting for a slot."""
        return len(self._waiting)

    @property
    def running(self) -> bool:
        """Whether the decode thread is alive."""
        return self._thread.is_alive() and not self._closed

    def submit(self, requests: Sequence[tuple[Request, Deliver]]) -> list[Generation]:
        """Queue all of ``requests`` or none; their deltas are delivered from the decode thread.

        Raises ``InputError`` for a prompt that cannot be continued, an unknown adapter or more prompts than ever fit,
        ``QueueFullError`` if there is no place for all of them now.
        """
        self.check_room(len(requests))
        for request, _ in requests:
            self._cascade.adapter_number(request.adapter)
        generations = [
            Generation(Decoding(self.model, self.tokenizer, request, self.presence_penalty), deliver, self)
            for request, deliver in requests
        ]
        with self._changed:
            self.check_room(len(generations))  # again: others may have come meanwhile
            self._waiting.extend(generations)
            self._changed.notify()
        return generations

    def check_room(self, count: int) -> None:
        """Raise the errors of ``submit`` that do not depend on what the ``count`` requests say."""
        if count > self.capacity:
            raise InputError(f"{count} prompts in one request; at most {self.capacity} are taken")
        if not self.running:
            raise ServiceError("the engine has stopped and takes no more requests")
        if len(self._active) + len(self._waiting) + count > self.capacity:
            raise QueueFullError(
                f"the server is busy: {len(self._active)} requests are being answered and {len(self._waiting)} are "
                "waiting; try again shortly"
            )

    def withdraw(self, generation: Generation) -> None:
        """Remove a waiting or running request; no effect if it is finished."""
        with self._changed:
            for place in (self._active, self._waiting):
                if generation in place:
                    place.remove(generation)

    def end_requests(self) -> None:
        """Take no more requests, and end all that run or wait with an error. Does not wait for the decode thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            generations = [*self._active, *self._waiting]
            self._active.clear()
            self._waiting.clear()
        for generation in generations:
            generation.deliver(ServiceError("the server is shutting down"))

    def close(self) -> None:
        """Stop decoding; running requests end with an error."""
        self.end_requests()
        self._thread.join()
        if self.helper is not None:
            self.helper.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @torch.inference_mode()
    def _decode(self, threads: int) -> None:
        if chosen := forward_threads(threads):
            torch.set_num_threads(chosen)  # holds for the thread that calls it
        while (admitted := self._next_round()) is not None:
            self._drop_withdrawn()
            for generation in admitted:
                self._guarded(generation, partial(self._begin, generation))
            if self._scoring:
                first = self._scoring.popleft()
                self._guarded(first, partial(self._score, first))
            for step in self._steps():
                moved = self._rows[step.request]
                self._guarded(moved, partial(self._take, moved, step))
        self._batch.close()

    def _next_round(self) -> list[Generation] | None:
        """Wait until there is something to do; who is admitted in this round (``None``: closed)."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._active or self._waiting or self._rows)
            if self._closed:
                return None
            admitted = []
            while self._waiting and len(self._active) < self._max_active:
                admitted.append(self._waiting.popleft())
                self._active.append(admitted[-1])
            return admitted

    def _drop_withdrawn(self) -> None:
        for number, generation in list(self._rows.items()):
            if generation not in self._active:
                self._leave(number)
        self._scoring = deque(generation for generation in self._scoring if generation in self._active)

    def _begin(self, generation: Generation) -> None:
        generation.decoding.begin()
        self._go_on(generation)

    def _score(self, generation: Generation) -> None:
        self._deliver(generation, generation.decoding.score())
        self._go_on(generation)

    def _go_on(self, generation: Generation) -> None:
        """Into the batch, once the prompt is scored as far as was asked for."""
        decoding = generation.decoding
        if decoding.to_score:
            self._scoring.append(generation)
            return
        number = self._batch.add(decoding.cascade_request, decoding.cache)
        decoding.cache = None  # copied into the batch
        decoding.summary = self._batch.summary(number)
        self._rows[number] = generation

    def _steps(self) -> list[CascadeStep]:
        """What this round adds to the requests of the batch."""
        if not self._rows:
            return []
        try:
            return self._batch.step()
        except Exception as error:  # an error that concerns all of them, such as a lack of memory
            logger.exception("decoding failed")
            self._batch = self._cascade.decoding()
            return [CascadeStep(number, (), error=error) for number in self._rows]

    def _take(self, generation: Generation, step: CascadeStep) -> None:
        if step.error is not None:
            raise step.error
        delta = generation.decoding.take(step)
        if delta.finish is not None:
            self._leave(step.request)  # a stop string: the cascade would go on
            self.withdraw(generation)
        self._deliver(generation, delta)

    def _leave(self, number: int) -> None:
        del self._rows[number]
        self._batch.cancel(number)

    def _deliver(self, generation: Generation, delta: Delta) -> None:
        if delta.text or delta.tokens or delta.finish is not None:
            generation.deliver(delta)

    def _guarded(self, generation: Generation, work: Callable[[], None]) -> None:
        """End one request with an error; the others continue."""
        try:
            work()
        except Exception:
            logger.exception("decoding failed")
            for number in [number for number, other in self._rows.items() if other is generation]:
                self._leave(number)
            self.withdraw(generation)
            generation.deliver(DecodingError("decoding failed; the server's log says why"))


class _Aside(Executor):
    """A daemon thread for each question to the helper, so that one that hangs does not delay the end of the process."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # passed to the caller that waits
                future.set_exception(error)

        threading.Thread(target=work, name="ask", daemon=True).start()
        return future


def _helper(
    bundle: LoadedBundle, folder: Path, device: str, call_budget: float | None, required: bool
) -> Helper | None:
    """The helper of a cascade's bundle; ``None`` for a plain model, and for a budget of 0."""
    record = bundle.delegation
    if record is None:
        if call_budget:
            raise InputError(
                f"call_budget={call_budget:g}, but the bundle in {folder} is a plain model without a helper: leave "
                "call_budget out, or bundle a model that `lacewing delegate` made"
            )
        return None
    if call_budget == 0.0 or record.cascade.helper.kind == "none":
        return None
    return opened_helper(record, folder, device, required)


def _cascade(
    bundle: LoadedBundle,
    helper: Helper | None,
    call_budget: float | None,
    prefixes: PrefixBlocks,
    adapters: dict[str, CascadeAdapter],
    questions_at_once: int,
) -> Cascade:
    record = bundle.delegation
    config = record.cascade if record is not None else CascadeConfig(budget=0.0)
    if call_budget is not None:
        config = config.model_copy(update={"budget": call_budget})
    calibration = record.calibration if record is not None else NEVER_CALLS
    return Cascade(
        bundle.model,
        bundle.tokenizer,
        helper,
        calibration,
        config,
        executor=_Aside(),
        prefixes=prefixes,
        adapters=adapters,
        questions_at_once=questions_at_once,
    )
