"""The engine: a loaded bundle and one thread that decodes many requests in turns.

Every turn of a request is one prefill piece or one token, so that all streams move on together and a long answer does
not keep a short one waiting. One thread, because on a CPU several would only take the cores from each other.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from components.core.errors import InputError, LacewingError, ServiceError
from components.deployment.bundle import load_bundle
from components.deployment.decoding import Decoding, Piece, Request

logger = logging.getLogger(__name__)

Deliver = Callable[["Piece | LacewingError"], None]


class QueueFullError(ServiceError):
    """As many requests wait as may; the caller should come back later."""


class DecodingError(ServiceError):
    """The model failed on a request that was sound."""


class Generation:
    """A submitted request: its pieces go to ``deliver`` until one has ``finish``, or an error ends it."""

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

    def cancel(self) -> None:
        """Give the place free; nothing more is delivered after the turn in progress."""
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
    ) -> None:
        """Load the bundle in ``folder`` and start the decode thread.

        Arguments:
            folder: a bundle; ``ArtifactError`` if it is missing, truncated or altered.
            max_concurrent_requests: prompts decoded in turns.
            max_queued_requests: prompts that may wait beyond those.
            threads: CPU threads of the forward pass; 0 leaves it to torch.
            device: ``cpu``, ``cuda``, or ``auto`` for the GPU if there is one.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        bundle = load_bundle(folder, device)
        self.manifest, self.model, self.tokenizer = bundle.manifest, bundle.model, bundle.tokenizer
        self.capacity = max_concurrent_requests + max_queued_requests
        self._max_active = max_concurrent_requests
        self._active: list[Generation] = []
        self._waiting: deque[Generation] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._decode, args=(threads,), name="decode", daemon=True)
        self._thread.start()

    @property
    def context_length(self) -> int:
        """Tokens of a prompt and its answer together."""
        return self.model.config.context_length

    @property
    def active(self) -> int:
        """Requests taking turns."""
        return len(self._active)

    @property
    def queued(self) -> int:
        """Requests waiting for a place."""
        return len(self._waiting)

    @property
    def running(self) -> bool:
        """Whether the decode thread is alive."""
        return self._thread.is_alive() and not self._closed

    def submit(self, requests: Sequence[tuple[Request, Deliver]]) -> list[Generation]:
        """Queue all of ``requests`` or none; their pieces are delivered from the decode thread.

        Raises ``InputError`` for a prompt that cannot be continued or more prompts than ever fit, ``QueueFullError``
        if there is no place for all of them now.
        """
        if len(requests) > self.capacity:
            raise InputError(f"{len(requests)} prompts in one request; at most {self.capacity} are taken")
        generations = [
            Generation(Decoding(self.model, self.tokenizer, request), deliver, self) for request, deliver in requests
        ]
        with self._changed:
            if not self.running:
                raise ServiceError("the engine has stopped and takes no more requests")
            if len(self._active) + len(self._waiting) + len(generations) > self.capacity:
                raise QueueFullError(
                    f"the server is busy: {len(self._active)} requests are being answered and {len(self._waiting)} are "
                    "waiting; try again shortly"
                )
            self._waiting.extend(generations)
            self._changed.notify()
        return generations

    def withdraw(self, generation: Generation) -> None:
        """Take a request out, whether it waits or runs; no effect if it is finished."""
        with self._changed:
            for place in (self._active, self._waiting):
                if generation in place:
                    place.remove(generation)

    def close(self) -> None:
        """Stop decoding; requests in progress are told so."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for generation in (*self._active, *self._waiting):
            generation.deliver(ServiceError("the server is shutting down"))
        self._active.clear()
        self._waiting.clear()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @torch.inference_mode()
    def _decode(self, threads: int) -> None:
        if threads:
            torch.set_num_threads(threads)  # holds for the thread that calls it
        while round := self._next_round():
            for generation in round:
                if generation in self._active and not self._closed:
                    self._take_turn(generation)

    def _next_round(self) -> list[Generation]:
        """Wait until there is something to do; admit who waits; return who may take a turn (empty: closed)."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._active or self._waiting)
            if self._closed:
                return []
            while self._waiting and len(self._active) < self._max_active:
                self._active.append(self._waiting.popleft())
            return list(self._active)

    def _take_turn(self, generation: Generation) -> None:
        try:
            piece = generation.decoding.step()
        except Exception:  # one request must not take the others with it
            logger.exception("decoding failed")
            self.withdraw(generation)
            generation.deliver(DecodingError("decoding failed; the server's log says why"))
            return
        if piece.finish is not None:
            self.withdraw(generation)
        if piece.text or piece.tokens or piece.finish is not None:
            generation.deliver(piece)
