"""The text of one answer on its way to the client: whole characters, stop strings, and who wrote what."""

from collections.abc import Iterable, Sequence

from components.cascade.authors import author_spans
from components.cascade.decoding import Author, FinishReason
from components.data.tokenizer import TextTokenizer
from components.deployment.decoding import Delta
from components.deployment.text_stream import Detokenizer, StopMatcher


class Writing:
    """Tokens in, text out."""

    def __init__(self, tokenizer: TextTokenizer, prompt: Iterable[int], stops: Sequence[str]) -> None:
        """``prompt``: its end may be the beginning of a character that the answer completes."""
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer()
        self._matcher = StopMatcher(stops)
        self._written: list[tuple[Author, str]] = []
        self._shown = 0
        for id in prompt:
            self._detokenizer.push(tokenizer.token_bytes(id))

    def push(self, author: Author, ids: Sequence[int]) -> Delta:
        """What can be shown now that ``ids`` have come; ``finish`` is set if they complete a stop string."""
        shown = ""
        for id in ids:
            characters = self._detokenizer.push(self._tokenizer.token_bytes(id))
            self._written.append((author, characters))
            shown += self._matcher.push(characters)
            if self._matcher.stopped:
                break
        self._shown += len(shown)
        return Delta(shown, finish="stop" if self._matcher.stopped else None)

    def end(self, text: str, finish: FinishReason, degraded: bool) -> Delta:
        """The last delta: ``text`` that was to be shown, what was held back, and who wrote what."""
        held = self._matcher.finish()
        self._shown += len(held)
        authors = tuple(author_spans(self._written, end=self._shown))
        return Delta(text + held, finish=finish, degraded=degraded, authors=authors)
