"""A helper that is a model of Hugging Face's Llama family with a tokenizer of its own: only text crosses the border.

As in ``model.py``, a request keeps its key-value cache, and a call reads what is new since the last one. The calls of a
batch are answered one after another: caches of transformers hold rows of one length.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from components.cascade.helpers.base import Call, HelperError, Reply
from components.cascade.helpers.model import DEFAULT_SESSIONS, no_finite_prediction, shared_length, within
from components.cascade.reply_unit import first_unit
from components.model.families.hugging_face import HuggingFaceModel, empty_cache, load_hugging_face

_INCOMPLETE = "\ufffd"  # what a decoder writes for a character that lacks bytes


@dataclass(eq=False)
class _Session:
    """What the cache of one request holds."""

    cache: Any
    ids: list[int] = field(default_factory=list)


class HuggingFaceHelper:
    """Greedy continuations by a local model. Thread-safe: one call at a time."""

    def __init__(self, model: HuggingFaceModel, max_sessions: int = DEFAULT_SESSIONS) -> None:
        """
        Arguments:
            max_sessions: number of requests whose cache is kept; the one that called longest ago is evicted first.
        """
        self._model = model
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # the one that called last at the end
        self._silent = sorted(model.silent_ids)
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "HuggingFaceHelper":
        """Read the model and tokenizer in ``folder``; raises what ``load_hugging_face`` raises."""
        return cls(load_hugging_face(folder, device))

    @property
    def name(self) -> str:
        return f"model {self._model.name}"

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        with self._lock:
            return [self._answer(call) for call in calls]

    def forget(self, session: str) -> None:
        with self._lock:
            self._sessions.pop(session, None)

    def check(self) -> None:
        """Raise ``HelperError`` if the model gives no finite prediction."""
        if not bool(self._logits([self._model.start_id], empty_cache()).isfinite().all()):
            raise no_finite_prediction(self.name)

    def close(self) -> None:
        """Release the caches."""
        with self._lock:
            self._sessions.clear()

    def _answer(self, call: Call) -> Reply:
        began = time.perf_counter()
        limit = min(call.max_tokens, self._model.context_length // 2)
        before = within(self._model.encode(call.text), self._model.context_length - limit)
        session = self._session(call.session)
        shared = shared_length(session.ids, before[:-1])
        if shared < len(session.ids):
            session.cache.crop(shared - len(session.ids))  # negative: how many to drop
            session.ids = before[:shared]
        written, unit = self._write(call, before, session, limit)
        return Reply(unit, written, time.perf_counter() - began)

    @torch.inference_mode()
    def _write(self, call: Call, before: list[int], session: _Session, limit: int) -> tuple[int, str]:
        """Greedy tokens until the unit is complete: their number, and the unit."""
        unread, written, unit = before[len(session.ids) :], list[int](), ""
        while len(written) < limit:
            logits = self._logits(unread, session.cache)
            session.ids += unread
            logits[self._silent] = float("-inf")
            unread = [int(logits.argmax())]
            written += unread
            if written[-1] in self._model.end_ids:
                break
            text = self._model.continuation(before, written)
            if text.endswith(_INCOMPLETE) and len(written) < limit:
                continue
            unit, ended = first_unit(text.rstrip(_INCOMPLETE), call.unit)
            if ended:
                break
        return len(written), unit

    @torch.inference_mode()
    def _logits(self, unread: Sequence[int], cache: Any) -> torch.Tensor:
        """Of the token after ``unread``, which ``cache`` holds afterwards: ``[vocab]``, fp32."""
        model = self._model.model
        ids = torch.tensor([list(unread)], device=model.device)
        found: torch.Tensor = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        return found.float()

    def _session(self, name: str) -> _Session:
        """The session of a call; an unknown one is created, and those that called longest ago are evicted."""
        if name not in self._sessions:
            self._sessions[name] = _Session(empty_cache())
        self._sessions.move_to_end(name)
        while len(self._sessions) > self._max_sessions:
            self._sessions.popitem(last=False)
        return self._sessions[name]
