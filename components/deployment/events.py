"""Server-sent events of a streamed answer.

Most chunks of an answer differ in their text only. Their JSON is made once, and only the text is written anew.
"""

from collections.abc import Iterator
from secrets import token_hex

from pydantic import BaseModel
from pydantic_core import to_json

from components.deployment.decoding import Delta
from components.deployment.responses import ResponseBuilder


class Events:
    """The events of one answer, in the order of its deltas."""

    def __init__(self, builder: ResponseBuilder, include_usage: bool) -> None:
        self._builder = builder
        self._hidden = None if include_usage else {"usage"}
        self._around: dict[int, tuple[str, str]] = {}
        """By the prompt: the event before and after the JSON of a text."""

    def of(self, index: int, delta: Delta) -> Iterator[str]:
        """The events for ``delta`` of prompt ``index``."""
        alike = self._builder.only_text(delta)
        if alike and index in self._around:
            before, after = self._around[index]
            yield before + to_json(delta.text).decode() + after
            return
        for chunk in self._builder.chunks(index, delta):
            yield event(self._json(chunk))
        if alike:
            self._around[index] = self._without_text(index)

    def _without_text(self, index: int) -> tuple[str, str]:
        mark = token_hex()
        (chunk,) = self._builder.chunks(index, Delta(mark))  # what an answer begins with has been sent
        before, after = event(self._json(chunk)).split(f'"{mark}"')
        return before, after

    def _json(self, chunk: BaseModel) -> str:
        return chunk.model_dump_json(exclude=self._hidden)


def event(data: str) -> str:
    """One event."""
    return f"data: {data}\n\n"
