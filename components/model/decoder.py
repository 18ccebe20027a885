"""The decoder: many texts are continued together, and each may come and go at any step.

``step`` gives every text its next token. Who decides more (the cascade asks a helper at some places) takes the three
parts of a step one by one: ``read`` what is new, ``choose`` from what the model says, ``write``. Work for each row in
Python is a few list operations; the forward pass, suppressed tokens, penalties and the choice of the likeliest token
are made for all rows together. Only a row whose sampling draws, or that has a repetition penalty, costs more.

Deterministic: each row draws from a generator of its own. On a CPU with packed products (``decoder_pass.py``) its text
is the same to the last bit whatever else is in the batch; elsewhere rounding may depend on that, and a text changes
where two tokens are equal but for it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.core.errors import InputError
from components.model.decoder_pass import PIECE_TOKENS, DecoderPass
from components.model.prefix_blocks import PrefixBlocks
from components.model.sampling import Sampling, choose
from components.model.transformer import KeyValueCache, Transformer

FinishReason = Literal["stop", "length"]


class Guide(Protocol):
    """Says which tokens a text may go on with. It is told all that has been written, so nobody need take back."""

    def allow(self, written: Sequence[int], logits: Float[Tensor, "vocab"]) -> None:
        """Set the logits of all tokens to -inf that must not follow ``written``."""

    def accepts(self, written: Sequence[int], ids: Sequence[int]) -> bool:
        """Whether all of ``ids`` may follow ``written``."""


@dataclass(eq=False)
class Row:
    """One text that is being continued."""

    ids: list[int]
    """The prompt and what has been written."""
    prompt_tokens: int
    sampling: Sampling
    left: int
    """Tokens that may still be written."""
    unread: list[int]
    """The last of ``ids``, which the model has not read yet."""
    generator: torch.Generator
    suppressed: Int[Tensor, " suppressed"]
    place: int
    """Its row of the cache."""
    to_keep: bool
    """Whether its prompt is kept for others once it has been read."""
    adapter: int = 0
    """Number of its adapter, counted from one; 0 for none."""
    written: Counter[int] = field(default_factory=Counter)
    """The tokens of the answer, and how often it holds each."""
    finish: FinishReason | None = None
    """Why it has ended."""
    guide: Guide | None = None

    @property
    def answer(self) -> list[int]:
        """What has been written."""
        return self.ids[self.prompt_tokens :]


@dataclass(frozen=True)
class Chosen:
    """A token that a step has written."""

    row: Row
    token: int


class Decoder:
    """Texts that are continued together by one model. For one thread."""

    def __init__(
        self, model: Transformer, forward: DecoderPass | None = None, prefixes: PrefixBlocks | None = None
    ) -> None:
        """
        Arguments:
            model: in evaluation mode, on any device.
            forward: of this model, if there is one already: to make it lays out all weights anew.
            prefixes: of this model; what prompts have in common with earlier ones is not read again.
        """
        self.rows: list[Row] = []
        """The texts, by their row of the cache."""
        self._model = model
        self._forward = forward if forward is not None else DecoderPass(model)
        self._cache = self._forward.new_cache()
        self._prefixes = prefixes
        self._suppressed: dict[frozenset[int], Tensor] = {}
        self._penalties: Float[np.ndarray, "rows vocab"] = np.zeros((0, model.vocab_size), dtype=np.float32)

    def add(
        self, prompt: Sequence[int], sampling: Sampling, read: KeyValueCache | None = None, adapter: int = 0
    ) -> Row:
        """Take in a text to continue.

        Arguments:
            prompt: at least one id; it must leave room for one token in the context.
            sampling: how; the context may end the text before ``max_tokens``.
            read: holds the beginning of the prompt already, fewer tokens than all; it is copied.
            adapter: number of one of the adapters of ``forward``, counted from one; 0 for none.

        Raises ``InputError`` for an empty prompt or one that fills the context.
        """
        room = self.room(prompt, sampling)
        if read is not None and read.length >= len(prompt):
            raise ValueError(f"the cache holds {read.length} tokens of a prompt of {len(prompt)}; truncate it first")
        if read is not None:
            place = self._cache.adopt(read.keys[:, 0, : read.length], read.values[:, 0, : read.length])
        elif self._prefixes is not None and (known := self._prefixes.find(prompt, adapter)):
            place = self._cache.adopt(*known)
        else:
            place = self._cache.add()
        row = Row(
            ids=list(prompt),
            prompt_tokens=len(prompt),
            sampling=sampling,
            left=room,
            unread=list(prompt[self._cache.lengths[place] :]),
            generator=torch.Generator().manual_seed(sampling.seed),
            suppressed=self._suppressed_by(sampling.suppress_ids),
            place=place,
            to_keep=self._prefixes is not None and read is None,
            adapter=adapter,
        )
        self.rows.append(row)
        if sampling.counts_tokens:
            self._make_room_for_penalties(place)
        if place < len(self._penalties):
            self._penalties[place] = 0.0
        return row

    def room(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """Tokens that can be written after ``prompt``, at least one; raises ``InputError`` if there are none."""
        context = self._model.config.context_length
        if not prompt:
            raise InputError("the prompt is empty: give at least one token")
        if len(prompt) >= context:
            raise InputError(
                f"the prompt has {len(prompt)} tokens, but the context of {context} must also hold at least one "
                f"generated token: shorten the prompt to {context - 1} tokens"
            )
        return min(sampling.max_tokens, context - len(prompt))

    def remove(self, row: Row) -> None:
        """Forget a text."""
        place = row.place
        self._cache.remove(place)
        last = self.rows.pop()
        if last is not row:
            self.rows[place] = last
            if last.sampling.counts_tokens:
                self._make_room_for_penalties(place)
            if place < len(self._penalties):
                self._penalties[place] = self._penalties[last.place] if last.place < len(self._penalties) else 0.0
            last.place = place

    @torch.inference_mode()
    def step(self) -> list[Chosen]:
        """Read a part of each prompt, and write the next token of every row that has read all; drop what has ended."""
        rows, logits = self.read()
        chosen = [Chosen(row, token) for row, token in zip(rows, self.choose(rows, logits), strict=True)]
        for each in chosen:
            self.write(each.row, [each.token])
            if each.row.finish is not None:
                self.remove(each.row)
        return chosen

    @torch.inference_mode()
    def read(self, rows: Sequence[Row] | None = None) -> tuple[list[Row], Float[Tensor, "rows vocab"]]:
        """Read what is new; those of ``rows`` (``None``: all) that are complete, and what the model says comes next.

        Of all prompts together ``PIECE_TOKENS`` are read, those of the first first; the others wait for the next step.
        Logits are fp32, on the CPU and the caller's to change; suppressed tokens have -inf.
        """
        complete, logits = self.read_all(rows)
        self.suppress(complete, logits)
        return complete, logits

    @torch.inference_mode()
    def read_all(self, rows: Sequence[Row] | None = None) -> tuple[list[Row], Float[Tensor, "rows vocab"]]:
        """``read`` with nothing suppressed."""
        rows = self.rows if rows is None else rows
        unread = self._pieces(rows)
        complete = [row for row in rows if len(unread.get(row.place, ())) == len(row.unread)]
        at = {place: number for number, place in enumerate(unread)}
        adapters = {row.place: row.adapter for row in rows if row.adapter}
        hidden = self._forward(self._cache, unread, adapters)
        for row in rows:
            if row.place in unread:
                row.unread = row.unread[len(unread[row.place]) :]
        for row in complete:
            if row.to_keep and self._prefixes is not None:
                row.to_keep = False
                keys, values = (stored[:, row.place] for stored in (self._cache.keys, self._cache.values))
                self._prefixes.keep(row.ids[: row.prompt_tokens], keys, values, row.adapter)
        if not complete:
            return [], torch.empty(0, self._model.vocab_size)
        if len(complete) < len(unread):
            hidden = hidden[[at[row.place] for row in complete]]
        of_complete = [row.adapter for row in complete] if adapters else []
        return complete, self._forward.logits(hidden, of_complete).float().cpu()

    def _pieces(self, rows: Sequence[Row]) -> dict[int, list[int]]:
        """What is read in one pass, by place: all single tokens, and of longer texts as much as delays no one."""
        pieces, left = {}, PIECE_TOKENS
        for row in rows:
            piece = row.unread if len(row.unread) <= PIECE_TOKENS else row.unread[:PIECE_TOKENS]
            if len(piece) == 1:
                pieces[row.place] = piece
            elif len(piece) <= left:
                pieces[row.place] = piece
                left -= len(piece)
        return pieces

    def rewind(self, row: Row, unread: list[int]) -> None:
        """``unread``, the last of the row's ids, have not been read after all."""
        row.unread = unread
        self._cache.truncate(row.place, min(len(row.ids) - len(unread), self._cache.lengths[row.place]))

    @torch.inference_mode()
    def suppress(self, rows: Sequence[Row], logits: Float[Tensor, "rows vocab"]) -> None:
        """Set the logits of the suppressed tokens of each row to -inf."""
        if not rows:
            return
        common = rows[0].suppressed
        if all(row.suppressed is common for row in rows):
            logits.index_fill_(1, common, float("-inf"))
        else:
            for row, of_row in zip(rows, logits, strict=True):
                of_row.index_fill_(0, row.suppressed, float("-inf"))
        for row, of_row in zip(rows, logits, strict=True):
            if row.guide is not None:
                row.guide.allow(row.answer, of_row)

    @torch.inference_mode()
    def choose(self, rows: Sequence[Row], logits: Float[Tensor, "rows vocab"]) -> list[int]:
        """The next token of each of ``rows``, which are left as they are but for their generators.

        ``logits``: as ``read`` gives them; not changed.
        """
        if not rows:
            return []
        scores = logits
        if any(row.sampling.counts_tokens for row in rows):
            scores = logits - torch.from_numpy(self._penalties_of(rows))
        tokens: list[int] = scores.numpy().argmax(axis=-1).tolist()  # numpy's is ten times as fast as torch's
        for at, row in enumerate(rows):
            if not row.sampling.greedy or row.sampling.repetition_penalty != 1.0:
                tokens[at] = choose(logits[at], row.sampling, row.generator, row.written, row.ids)
        return tokens

    def write(self, row: Row, ids: Sequence[int]) -> None:
        """Continue a row by ``ids``, at most as many as it has left; sets ``finish`` if that ends it."""
        row.ids += ids
        row.unread = [*row.unread, *ids]
        row.left -= len(ids)
        for id in ids:
            row.written[id] += 1
            if row.sampling.counts_tokens:
                self._penalties[row.place, id] = row.sampling.penalty(row.written[id])
        if ids[-1] in row.sampling.stop_ids:
            row.finish = "stop"
        elif row.left == 0:
            row.finish = "length"

    def take_back(self, row: Row, count: int) -> None:
        """The last ``count`` tokens of the answer have not been written after all."""
        if not count:
            return
        taken = row.ids[-count:]
        del row.ids[-count:]
        row.left += count
        row.finish = None
        read = min(len(row.ids), self._cache.lengths[row.place])
        self._cache.truncate(row.place, read)
        row.unread = row.ids[read:]
        row.written.subtract(taken)
        for id in set(taken):
            if row.sampling.counts_tokens:
                self._penalties[row.place, id] = row.sampling.penalty(row.written[id])
            if not row.written[id]:
                del row.written[id]

    def _suppressed_by(self, ids: frozenset[int]) -> Tensor:
        """The same tensor for the same ids, so that equal rows are told by identity."""
        if ids not in self._suppressed:
            self._suppressed[ids] = torch.tensor(sorted(ids), dtype=torch.long)
        return self._suppressed[ids]

    def _make_room_for_penalties(self, place: int) -> None:
        if place >= (has := len(self._penalties)):
            more = np.zeros((max(place + 1, 2 * has) - has, self._model.vocab_size), dtype=np.float32)
            self._penalties = np.concatenate((self._penalties, more))

    def _penalties_of(self, rows: Sequence[Row]) -> Float[np.ndarray, "rows vocab"]:
        places = [row.place for row in rows]
        if len(rows) <= len(self._penalties) and places == list(range(len(rows))):
            return self._penalties[: len(rows)]
        found = np.zeros((len(rows), self._model.vocab_size), dtype=np.float32)
        for at, row in enumerate(rows):
            if row.sampling.counts_tokens:
                found[at] = self._penalties[row.place]
        return found


def log_sums(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows"]:
    """log of the sum of exp of each row; from torch's softmax, which is faster than its ``exp``."""
    return logits.amax(dim=-1) - logits.softmax(dim=-1).amax(dim=-1).log_()
