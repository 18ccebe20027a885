"""A helper that is a larger model in this process, with its own key-value cache for every request.

The cache is updated at a call, not before: the helper reads all unread tokens of a request in one pass, together with
those of the other requests that call. So text that needs no help costs the helper only a few columns of a matrix
product. A call costs one pass for the unread tokens, and one more for each further token of the reply.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from components.cascade.helpers.base import Call, HelperError, Reply
from components.cascade.reply_tokens import ends_inside_character
from components.cascade.reply_unit import first_unit
from components.core.errors import ArtifactError
from components.data.tokenizer import TextTokenizer, tokenizer_digest
from components.model.checkpoint import load_model
from components.model.decoder_pass import DecoderPass
from components.model.transformer import Transformer

DEFAULT_SESSIONS = 64


@dataclass(eq=False)
class _Session:
    """What the cache row of one request holds."""

    ids: list[int] = field(default_factory=list)


@dataclass(eq=False)
class _Writing:
    """A reply that is being generated."""

    call: Call
    limit: int
    session: _Session
    unread: list[int]
    ids: list[int] = field(default_factory=list)
    text: bytes = b""
    unit: str = ""
    ended: bool = False


class ModelHelper:
    """Greedy continuations by a local model. Thread-safe: one batch at a time."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: TextTokenizer,
        *,
        same_tokenizer: bool,
        max_sessions: int = DEFAULT_SESSIONS,
    ) -> None:
        """
        Arguments:
            model: in evaluation mode.
            tokenizer: of this model.
            same_tokenizer: whether the small model has the same one. Then ids are passed, otherwise text.
            max_sessions: number of requests whose cache is kept; the one that called longest ago is evicted first.
        """
        if model.vocab_size != tokenizer.vocab_size:
            raise ArtifactError(
                f"the helper has {model.vocab_size} tokens and its tokenizer {tokenizer.vocab_size}: they do not "
                "belong together; give the folder of a bundle, or a model beside its own tokenizer"
            )
        self._model, self._tokenizer, self._same = model, tokenizer, same_tokenizer
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # the one that called last at the end
        self._rows: list[_Session] = []
        self._forward = DecoderPass(model)
        self._cache = self._forward.new_cache()
        self._ends = (tokenizer.end_of_text_id, tokenizer.im_end_id)
        self._silent = [id for id in tokenizer.special.ids.values() if id not in self._ends]
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        folder: Path,
        small_tokenizer: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        max_sessions: int = DEFAULT_SESSIONS,
    ) -> "ModelHelper":
        """Read the model and tokenizer in ``folder``; ``small_tokenizer`` is the folder of the small model's.

        Raises ``ArtifactError`` if either folder does not hold what it should.
        """
        tokenizer = TextTokenizer.load(folder)
        same = tokenizer_digest(folder) == tokenizer_digest(small_tokenizer)
        model = load_model(folder, device, dtype)
        return cls(model, tokenizer, same_tokenizer=same, max_sessions=max_sessions)

    @property
    def name(self) -> str:
        return f"model {self._model.config.name}"

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """One reply for each call; those of one batch share every forward pass, but for further ones of a request."""
        began = time.perf_counter()
        writings: dict[int, _Writing] = {}
        with self._lock:
            for turn in _turns(calls):
                writings |= zip(turn, self._write([calls[place] for place in turn]), strict=True)
        seconds = time.perf_counter() - began
        return [Reply(writings[place].unit, len(writings[place].ids), seconds) for place in range(len(calls))]

    def forget(self, session: str) -> None:
        with self._lock:
            if known := self._sessions.pop(session, None):
                self._free(known)

    def check(self) -> None:
        """Raise ``HelperError`` if the model gives no finite prediction."""
        with torch.inference_mode():
            start = torch.tensor([[self._tokenizer.end_of_text_id]], device=self._model.output_weight.device)
            finite = bool(self._model.logits(self._model(start)).isfinite().all())
        if not finite:
            raise no_finite_prediction(self.name)

    def close(self) -> None:
        """Release the caches."""
        with self._lock:
            self._sessions.clear()
            self._rows.clear()
            self._cache = self._forward.new_cache()

    @torch.inference_mode()
    def _write(self, calls: Sequence[Call]) -> list[_Writing]:
        sessions = self._called(calls)
        writings = [
            _Writing(call, self._limit(call), session, self._unread(call, session))
            for call, session in zip(calls, sessions, strict=True)
        ]
        while going := [writing for writing in writings if not writing.ended]:
            rows = {self._rows.index(writing.session): writing for writing in going}
            hidden = self._forward.read(self._cache, {row: writing.unread for row, writing in rows.items()})
            logits = self._forward.logits(hidden)
            logits[:, self._silent] = float("-inf")
            for writing, id in zip(rows.values(), logits.argmax(dim=-1).tolist(), strict=True):
                writing.session.ids += writing.unread
                self._append(writing, id)
        return writings

    def _append(self, writing: _Writing, id: int) -> None:
        """Add one token to a reply, and see whether its unit is complete."""
        writing.ids.append(id)
        writing.unread = [id]
        if id in self._ends:
            writing.ended = True
            return
        writing.text += self._tokenizer.token_bytes(id)
        full = len(writing.ids) >= writing.limit
        if ends_inside_character(writing.text) and not full:
            return
        text = writing.text.decode("utf-8", errors="ignore" if full else "replace")
        writing.unit, ended = first_unit(text, writing.call.unit)
        writing.ended = ended or full

    def _called(self, calls: Sequence[Call]) -> list[_Session]:
        """The sessions of these calls; unknown ones are created, and those that called longest ago are evicted."""
        for call in calls:
            if call.session not in self._sessions:
                self._sessions[call.session] = _Session()
                self._rows.append(self._sessions[call.session])
                self._cache.add()
            self._sessions.move_to_end(call.session)
        while len(self._sessions) > max(self._max_sessions, len(calls)):
            self._free(self._sessions.popitem(last=False)[1])
        return [self._sessions[call.session] for call in calls]

    def _free(self, session: _Session) -> None:
        row = self._rows.index(session)
        self._cache.remove(row)
        last = self._rows.pop()
        if last is not session:
            self._rows[row] = last

    def _unread(self, call: Call, session: _Session) -> list[int]:
        """Cut the session to the prefix shared with the call; returns the rest of the call, at least one token."""
        ids = list(call.ids) if self._same else [self._tokenizer.end_of_text_id, *self._tokenizer.encode(call.text)]
        ids = within(ids, self._model.config.context_length - self._limit(call))
        shared = shared_length(session.ids, ids[:-1])
        del session.ids[shared:]
        self._cache.truncate(self._rows.index(session), shared)
        return ids[shared:]

    def _limit(self, call: Call) -> int:
        """Longest reply in tokens; half of the context at least stays for what it replies to."""
        return min(call.max_tokens, self._model.config.context_length // 2)


def _turns(calls: Sequence[Call]) -> list[list[int]]:
    """The places of ``calls``, so that no session is twice in one turn: each has one row of the cache."""
    turns: list[list[int]] = []
    made: Counter[str] = Counter()
    for place, call in enumerate(calls):
        if made[call.session] == len(turns):
            turns.append([])
        turns[made[call.session]].append(place)
        made[call.session] += 1
    return turns


def no_finite_prediction(name: str) -> HelperError:
    """What is said of a helper whose scores are not numbers."""
    return HelperError(
        f"the helper ({name}) gives no finite prediction: its weights are damaged or its training diverged; set "
        "helper.model to another folder"
    )


def within(ids: list[int], room: int) -> list[int]:
    """The last of ``ids``, at most ``room``. The cut moves by half of that: each time, all is read anew."""
    stride = max(1, room // 2)
    return ids[max(0, -(-(len(ids) - room) // stride)) * stride :]


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
