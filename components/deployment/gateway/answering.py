"""The cascade around a server's pieces: it writes until it calls, the helper writes, and it goes on.

The rule is the fixed threshold on ``logit_margin``. Everything else is as in ``components.cascade.decoding``: what a
request may spend, no call inside a character, and the model's own token where a call brings nothing.

A logit bias is that threshold only where the likeliest token is taken. For a request that draws its tokens, a server
without our plugin is asked twice for each of them: greedily, whether ``<CALL>`` is over the threshold, and if it is
not, for a token that is drawn with ``<CALL>`` forbidden. That is exact at any temperature, and as many requests more.
"""

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.cascade.call_budget import CallBudget
from components.cascade.config import CascadeConfig
from components.cascade.decoding import Author, CascadeSummary, FinishReason
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.replies import told
from components.cascade.reply_tokens import ends_inside_character
from components.data.tokenizer import TextTokenizer
from components.deployment.gateway.drawing import GREEDY, Drawing
from components.deployment.gateway.upstream import SUPPRESSED, Piece, Upstream, UpstreamError
from components.deployment.prompt_times import HelperCall

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What one step adds to an answer."""

    author: Author
    ids: tuple[int, ...]
    finish: FinishReason | None = None


class GatewayAnswer:
    """One answer. Iterate over it; ``summary`` goes on counting."""

    def __init__(
        self,
        upstream: Upstream,
        helper: Helper | None,
        tokenizer: TextTokenizer,
        config: CascadeConfig,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        piece_tokens: int,
        bias: float,
        budget: CallBudget,
        drawing: Drawing = GREEDY,
    ) -> None:
        """
        Arguments:
            config: how much one call returns.
            max_tokens: longest answer.
            piece_tokens: what is asked of the server at once.
            bias: of ``<CALL>``, minus the threshold on ``logit_margin``.
            budget: the limit to the calls.
            drawing: how other tokens than ``<CALL>`` are drawn.
        """
        self._upstream, self._helper, self._tokenizer, self._config = upstream, helper, tokenizer, config
        self._ids, self._left, self._piece_tokens = list(prompt), max_tokens, piece_tokens
        self._text = bytearray(b"".join(map(tokenizer.token_bytes, prompt)))
        self._bias, self._budget = bias, budget
        self._drawing = drawing
        self._prompt_tokens = len(prompt)
        self._session = secrets.token_hex(8)
        self.summary = CascadeSummary()
        self.helper_calls: list[HelperCall] = []
        """What came of each call, and how long it took."""

    def __iter__(self) -> Iterator[Written]:
        """The steps; the last has ``finish``. Raises ``UpstreamError``."""
        try:
            finish: FinishReason | None = None
            while finish is None:
                for step in self._piece():
                    finish = step.finish
                    yield step
        finally:
            if self._helper is not None:
                self._helper.forget(self._session)

    def _piece(self) -> Iterator[Written]:
        """What the small model writes up to its next call, or the end of a piece; then what the helper does."""
        may_call = self._helper is not None and self._budget.spent < self._budget.limit
        if may_call and not (self._drawing.likeliest or self._upstream.decides_apart):
            piece = self._asked_twice()
        else:
            # A penalty counts the prompt's end, so it is right for one token only.
            tokens = 1 if self._drawing.penalises else min(self._left, self._piece_tokens)
            piece = self._drawn(tokens, self._bias if may_call else SUPPRESSED)
        if piece.end == "call" and not may_call:
            raise UpstreamError(f"{self._upstream.name} wrote <CALL>, although it was forbidden")
        if piece.end == "length" and not piece.ids:
            raise UpstreamError(f"{self._upstream.name} wrote nothing, and does not say why")
        self.summary.decisions += len(piece.ids) + (piece.end != "length")
        yield self._small(piece)
        if piece.end == "call":
            yield self._called()

    def _asked_twice(self) -> Piece:
        """One decision: a call where ``<CALL>`` is over the threshold, else a token that is drawn without it."""
        asked = self._upstream.write(self._ids, 1, self._bias)
        if asked.end == "call":
            return asked
        piece = self._drawn(1, SUPPRESSED)
        if piece.end == "call":
            raise UpstreamError(f"{self._upstream.name} wrote <CALL>, although it was forbidden")
        return piece

    def _drawn(self, max_tokens: int, bias: float) -> Piece:
        drawing = self._drawing.after(len(self._ids) - self._prompt_tokens)
        return self._upstream.write(self._ids, max_tokens, bias, drawing)

    def _called(self) -> Written:
        """What follows where the small model calls."""
        # Half a character cannot be sent as text.
        if ends_inside_character(self._text) or not self._budget.take():
            return self._own()
        self.summary.calls += 1
        began = time.perf_counter()
        reply = self._reply()
        ended = time.perf_counter()
        found = told(reply, self._ids, self._left, self._config.max_unit_tokens, self._tokenizer)
        self.helper_calls.append(HelperCall(found.call, ended - began, ended))
        self.summary.helper_seconds += ended - began
        self.summary.helper_model_tokens += reply.tokens if isinstance(reply, Reply) else 0
        self.summary.empty_calls += found.call == "empty"
        self.summary.failed_calls += found.call == "failed"
        if found.fault is not None:
            logger.info("the helper's reply cannot be used, the small model continues alone: %s", found.fault)
        if found.call != "answered":
            return self._own()
        self.summary.helper_tokens += len(found.ids)
        return self._emit("helper", found.ids)

    def _reply(self) -> Reply | HelperError:
        assert self._helper is not None
        call = Call(
            session=self._session,
            text=self._text.decode("utf-8", errors="replace"),
            ids=tuple(self._ids),
            unit=self._config.unit,
            max_tokens=self._config.max_unit_tokens,
        )
        try:
            (reply,) = self._helper.answer([call])
        except HelperError as error:
            return error
        return reply

    def _own(self) -> Written:
        """The small model's own token in place of a call."""
        piece = self._drawn(1, SUPPRESSED)
        if piece.end == "call" or (piece.end == "length" and len(piece.ids) != 1):
            raise UpstreamError(f"{self._upstream.name} wrote no token where <CALL> was forbidden")
        return self._small(piece)

    def _small(self, piece: Piece) -> Written:
        # The token that ends an answer counts as written.
        self.summary.small_tokens += len(piece.ids) + (piece.end == "stop")
        return self._emit("small", piece.ids, ended=piece.end == "stop")

    def _emit(self, author: Author, ids: Sequence[int], ended: bool = False) -> Written:
        self._ids += ids
        for id in ids:
            self._text += self._tokenizer.token_bytes(id)
        self._left -= len(ids)
        finish: FinishReason | None = "stop" if ended else "length" if self._left <= 0 else None
        return Written(author, tuple(ids), finish)
