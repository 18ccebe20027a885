"""From the body of a request to token ids, so that no request delays the others, however large it is.

What cannot be answered is refused before the costly steps, by counts that take milliseconds: bytes of the body before
it is read, values in it before it is parsed, bytes of a prompt before it is tokenised. What remains is parsed and
tokenised in a few threads of its own. The tokenizer releases Python's lock while it works on a batch (and only then),
so the event loop goes on.
"""

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from components.core.errors import InputError
from components.deployment.answering import Answering
from components.deployment.decoding import ContextLengthError
from components.deployment.engine import QueueFullError
from components.deployment.errors import InvalidBodyError
from components.deployment.grammar import Grammars, JsonGuide

# Two, so that a short prompt need not wait for a long one.
_THREADS = 2
# Values of a request beside its prompts, with room to spare.
_OTHER_VALUES = 10_000
_OTHER_BYTES = 1_000_000
# A byte of text takes at most six in JSON (``\u0041``).
_ESCAPED = 6
# Below this, a thread would cost more than it saves.
_SMALL_BODY_BYTES = 65_536

T = TypeVar("T")


class Intake:
    """Reads requests for one engine."""

    def __init__(self, engine: Answering) -> None:
        self._engine, self._tokenizer = engine, engine.tokenizer
        self._boundary = self._tokenizer.special.name(self._tokenizer.end_of_text_id) or ""
        self._longest_token = max(len(self._tokenizer.token_bytes(id)) for id in range(self._tokenizer.vocab_size))
        self._grammars = Grammars(self._tokenizer)
        self._threads = ThreadPoolExecutor(_THREADS, "intake")
        self._pending = 0

    async def body(self, body: bytes) -> Any:
        """The JSON value of ``body``; raises ``json.JSONDecodeError`` if it is none."""
        return await self._aside(lambda: json.loads(body), at_once=len(body) < _SMALL_BODY_BYTES)

    def check_size(self, size: int) -> None:
        """Raise ``ContextLengthError`` for a body of more bytes than any request that can be answered."""
        context, prompts = self._engine.context_length, self._engine.capacity
        # Every token as text or as an id with a comma and a space.
        token = max(_ESCAPED * self._longest_token, len(str(self._tokenizer.vocab_size)) + 2)
        if size > (most := prompts * context * token + _OTHER_BYTES):
            raise ContextLengthError(
                f"the body has {size:,} bytes, but this server takes at most {prompts} prompts, and its context is "
                f"{context} tokens, which is at most {most:,} bytes: shorten the prompts"
            )

    async def check_body(self, body: bytes) -> None:
        """Raise ``InputError`` for a body with more values than any request that can be answered."""
        await self._aside(lambda: self._check_values(body), at_once=len(body) < _SMALL_BODY_BYTES)

    async def prompts(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """Token ids of every prompt.

        The text of the document boundary at the very beginning of a prompt is the boundary; everywhere else it is text
        like any other. Raises ``InputError`` for prompts that cannot be answered and ``QueueFullError`` if there is no
        place for them.
        """
        if not prompts:
            raise InputError("the list of prompts is empty: give at least one prompt")
        self._engine.check_room(len(prompts))
        for prompt in prompts:
            self._check_length(self._least_tokens(prompt), exact=not isinstance(prompt, str))
        return await self._aside(lambda: self._encoded(prompts))

    async def chat(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, in which every text is only text; raises the errors of ``prompts``."""
        self._engine.check_room(1)
        texts = [turn["content"] for turn in turns]
        self._check_length(sum(map(self._least_tokens, texts)))

        def encoded() -> list[int]:
            # Counted first, as a batch: what does not fit is not encoded again with Python's lock held.
            self._check_length(sum(map(len, self._tokenizer.encode_batch(texts))))
            return self._tokenizer.encode_chat(turns)

        return await self._aside(encoded)

    async def guide(self, schema: Mapping[str, Any] | None) -> JsonGuide | None:
        """What keeps answers to ``schema``; raises ``SchemaError`` if nothing can."""
        return None if schema is None else await self._aside(lambda: self._grammars.guide(schema))

    def close(self) -> None:
        """Stop the threads; what waits for them is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _aside(self, work: Callable[[], T], at_once: bool = False) -> T:
        if at_once:
            return work()
        if self._pending >= self._engine.capacity:
            raise QueueFullError(f"the server is busy: it is reading {self._pending} requests; try again shortly")
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._pending -= 1

    def _check_values(self, body: bytes) -> None:
        context, prompts = self._engine.context_length, self._engine.capacity
        # A message takes at least four tokens, and has at most eight strings and three lists and objects.
        most = prompts + 2 * context + _OTHER_VALUES
        unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
        if (strings := unescaped.count(b'"') // 2) > most:
            raise InvalidBodyError(f"the body has {strings:,} strings; at most {most:,} can be answered")
        structure = b"".join(unescaped.split(b'"')[::2])
        values = structure.count(b",") + 1
        if values > prompts * context + _OTHER_VALUES:
            raise ContextLengthError(
                f"the body has {values:,} values, but this server takes at most {prompts} prompts, and its context is "
                f"{context} tokens: shorten the prompts"
            )
        if (containers := sum(map(structure.count, (b"[", b"{")))) > most:
            raise InvalidBodyError(f"the body has {containers:,} lists and objects; at most {most:,} can be answered")

    def _least_tokens(self, prompt: str | list[int]) -> int:
        """A lower bound of the tokens of ``prompt``."""
        if not isinstance(prompt, str):
            return len(prompt)
        text = prompt.removeprefix(self._boundary)
        return math.ceil(len(text.encode()) / self._longest_token)

    def _check_length(self, tokens: int, exact: bool = False) -> None:
        context = self._engine.context_length
        if tokens >= context:
            raise ContextLengthError(
                f"the prompt has {tokens}{'' if exact else ' or more'} tokens, but the context of {context} must also "
                f"hold at least one token of the answer: shorten the prompt to {context - 1} tokens"
            )

    def _encoded(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        texts = [prompt.removeprefix(self._boundary) for prompt in prompts if isinstance(prompt, str)]
        encoded = iter(self._tokenizer.encode_batch(texts))
        return [[*self._begins(prompt), *next(encoded)] if isinstance(prompt, str) else prompt for prompt in prompts]

    def _begins(self, prompt: str) -> list[int]:
        return [self._tokenizer.end_of_text_id] if self._boundary and prompt.startswith(self._boundary) else []
