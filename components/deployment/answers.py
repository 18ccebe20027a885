"""From the engine's deltas to HTTP answers, complete or as server-sent events.

The decode thread passes deltas to the event loop. When a client disconnects, its slot in the engine is released.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial

from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from components.core.errors import LacewingError
from components.deployment import errors
from components.deployment.costs import Bill, Costs
from components.deployment.decoding import Delta, Request
from components.deployment.events import Events, event
from components.deployment.figures import AnswerTimes
from components.deployment.inbox import inbox_of
from components.deployment.keys import Client
from components.deployment.metrics import Metrics
from components.deployment.prompt_times import PromptTimes
from components.deployment.protocol import CompletionTokensDetails, ErrorBody, Usage
from components.deployment.request_log import RequestRecord
from components.deployment.responses import ResponseBuilder
from components.deployment.versions import Version

CLIENT_CLOSED_REQUEST = 499
_COUNTED = tuple(CompletionTokensDetails.model_fields)  # of the same name in a cascade's summary


class Answer:
    """The generations of one HTTP request, one per prompt."""

    def __init__(
        self,
        version: Version,
        metrics: Metrics,
        requests: Sequence[Request],
        record: RequestRecord,
        costs: Costs,
        client: Client | None = None,
    ) -> None:
        """Submit ``requests``; raises the errors of ``Answering.submit``. Call this in the event loop.

        Arguments:
            record: where times and counts are noted.
            costs: what is counted beside tokens.
            client: whose key the tokens count for.
        """
        self._version = version
        self._metrics = metrics
        self._record = record
        self._client = client
        # Without ``self`` in what the engine calls: the circle would keep the engine when it has been replaced.
        self._times = times = AnswerTimes(len(requests))
        self._start = time.perf_counter()
        prompts = record.prompts = [PromptTimes(request.adapter, self._start) for request in requests]
        self._endings: set[str] = set()
        self._bill = bill = Bill(costs)
        queue: asyncio.Queue[tuple[int, Delta | LacewingError]] = asyncio.Queue()
        self._queue = queue
        loop = asyncio.get_running_loop()
        inbox = inbox_of(loop)

        def begun(index: int) -> None:
            """Called from the decode thread when a prompt gets its place."""
            bill.begin(index)
            prompts[index].begun = time.perf_counter()

        def deliver(index: int, delta: Delta | LacewingError) -> None:
            times.note(index, delta)
            if isinstance(delta, LacewingError) or delta.finish is not None:
                bill.end(index)
                prompts[index].ended, prompts[index].failed = time.perf_counter(), isinstance(delta, LacewingError)
            inbox.put(loop, queue, (index, delta))

        self._generations = version.engine.submit(
            [
                (replace(request, on_begin=partial(begun, index)), partial(deliver, index))
                for index, request in enumerate(requests)
            ]
        )
        self._cascade = version.engine.helper is not None
        self._closed = False

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        details = self._details() if self._cascade else None
        return Usage.of(
            sum(generation.prompt_tokens for generation in self._generations),
            sum(generation.generated_tokens for generation in self._generations),
            details,
            price=self._bill.price(details.calls) if details is not None else None,
            **self._bill.energy,
        )

    def _details(self) -> CompletionTokensDetails:
        summaries = [generation.summary for generation in self._generations]
        return CompletionTokensDetails(
            **{name: sum(getattr(summary, name) for summary in summaries) for name in _COUNTED}
        )

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Deltas as they arrive, each with the index of its prompt; raises the error that ended a generation early."""
        waiting_for_first = set(range(len(self._generations)))
        unfinished = len(self._generations)
        while unfinished:
            index, delta = await self._queue.get()
            if isinstance(delta, LacewingError):
                self._endings.add("error")
                raise delta
            if index in waiting_for_first:
                waiting_for_first.remove(index)
                seconds = time.perf_counter() - self._start
                self._metrics.first_token_seconds.observe(seconds)
                if self._record.first_token_seconds is None:
                    self._record.first_token_seconds = seconds
            if delta.finish is not None:
                unfinished -= 1
                self._endings.add(delta.finish)
            yield index, delta

    async def whole(self) -> list[Delta]:
        """All deltas of each prompt joined into one."""
        parts: list[list[Delta]] = [[] for _ in self._generations]
        async for index, delta in self.deltas():
            parts[index].append(delta)
        return [
            Delta(
                "".join(delta.text for delta in deltas),
                tuple(token for delta in deltas for token in delta.tokens),
                deltas[-1].finish,
                deltas[-1].degraded,
                deltas[-1].authors,
            )
            for deltas in parts
        ]

    def close(self) -> None:
        """Cancel the unfinished generations, and count tokens and calls."""
        if not self._closed:
            self._closed = True
            for index, generation in enumerate(self._generations):
                generation.cancel()
                self._bill.end(index)
            for times, generation in zip(self._record.prompts, self._generations, strict=True):
                times.helper_calls = generation.helper_calls
                times.ended = times.ended or time.perf_counter()
            self._metrics.count(self._generations)
            self._times.end()
            self._metrics.versions.ended(
                self._version, self._times.failed, self._times.first_seconds, self._times.pause_seconds
            )
            usage = self.usage
            self._note(usage)
            if self._client is not None:
                self._client.charge(usage.total_tokens)
                self._metrics.client_tokens.labels(self._client.name).inc(usage.total_tokens)

    def _note(self, usage: Usage) -> None:
        record = self._record
        record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        record.calls = sum(generation.summary.calls for generation in self._generations)
        record.failed_calls = sum(generation.summary.failed_calls for generation in self._generations)
        begun = [times.begun for times in record.prompts if times.begun is not None]
        record.queue_seconds = min(begun) - self._start if begun else None
        record.finish_reason = "+".join(sorted(self._endings)) or None


class EventStream(StreamingResponse):
    """Server-sent events; closes the answer in any case, even before the first event."""

    def __init__(self, answer: Answer, builder: ResponseBuilder, include_usage: bool) -> None:
        events = _events(answer, builder, include_usage)
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()


async def respond(http: HttpRequest, answer: Answer, builder: ResponseBuilder) -> Response:
    """Wait for the complete answer, unless the client disconnects first."""
    work = asyncio.create_task(answer.whole())
    left = asyncio.create_task(_client_left(http))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        # The scores of long prompts are megabytes; meanwhile others must be answered.
        content = await asyncio.to_thread(lambda: builder.whole(work.result(), answer.usage).model_dump_json())
        return Response(content, media_type="application/json")
    finally:
        work.cancel()
        left.cancel()
        answer.close()


async def _client_left(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _events(answer: Answer, builder: ResponseBuilder, include_usage: bool) -> AsyncIterator[str]:
    """``data:`` lines; the last one is ``[DONE]``, or the error that ended the answer."""
    events = Events(builder, include_usage)
    try:
        async for index, delta in answer.deltas():
            for each in events.of(index, delta):
                yield each
    except LacewingError as error:  # the status has been sent already
        yield event(ErrorBody(error=errors.detail(error)[1]).model_dump_json())
        return
    if include_usage:
        yield event(builder.usage_chunk(answer.usage).model_dump_json())
    yield event("[DONE]")
