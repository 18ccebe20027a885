"""The versions of a model that a server has loaded, and which of them answers a request.

One version answers. A second may be on trial, with a share of the requests. A request keeps the version that it began
with, whatever happens meanwhile: who takes a version counts as its user until it is given back. A version that has been
replaced is closed when its last user has left, and its memory is free then.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import random
from weakref import ref

from components.deployment.answering import ServedEngine
from components.deployment.figures import Figures
from components.deployment.intake import Intake
from components.deployment.page.origin import Origin
from components.deployment.registry_state import RegistryState
from components.deployment.released import release

logger = logging.getLogger(__name__)


class Version:
    """A loaded engine, and what answers say of it."""

    def __init__(self, engine: ServedEngine, origin: Origin | None = None, created: float = 0.0) -> None:
        """``created``: when its bundle was made, in seconds since 1970."""
        self.engine = engine
        self.origin = origin or Origin()
        self.created = created
        self.intake = Intake(engine)
        self.figures = Figures()
        self.users = 0
        """Requests that have begun with it and have not ended; of ``Versions``."""

    @property
    def name(self) -> str:
        """Model and number in the registry, or the name of a bundle that comes from none."""
        return self.origin.version or self.engine.manifest.name

    @property
    def fingerprint(self) -> str:
        """Name and key of its bundle: the same text for the same weights only."""
        return f"{self.name}@{self.origin.key[:16]}" if self.origin.key else self.name

    def close(self) -> None:
        """Give up its threads and its memory."""
        self.intake.close()
        self.engine.close()


@dataclass(frozen=True)
class Trial:
    """A version that answers a share of the requests."""

    version: Version
    share: float

    def takes(self, request: str) -> bool:
        """Whether it answers the request of this id: always the same for the same id; empty: drawn at random."""
        if not request:
            return random() < self.share
        digest = hashlib.sha256(f"{self.version.fingerprint} {request}".encode()).digest()
        return int.from_bytes(digest[:8]) < self.share * 2**64


class Versions:
    """Thread-safe. Close it at the end."""

    def __init__(self, first: Version, registry: RegistryState | None = None) -> None:
        """``registry``: what is known of the registry that the server follows; ``None``: it follows none."""
        self.registry = registry
        self._lock = threading.Lock()
        self._current = first
        self._trial: Trial | None = None
        self._leaving: list[Version] = []
        self._closed = False
        self.swaps = 0
        """How often another version has become the one that answers."""
        self.judge: Callable[[], None] = lambda: None
        """Called when a request has ended while a version is on trial, so that the trial can be ended in time."""

    @property
    def current(self) -> Version:
        """The version that answers."""
        return self._current

    @property
    def trial(self) -> Trial | None:
        """The version on trial."""
        return self._trial

    @property
    def loaded(self) -> list[tuple[str, Version]]:
        """All versions in memory, each with its part: ``current``, ``canary`` or ``leaving``."""
        with self._lock:
            trial = [("canary", self._trial.version)] if self._trial else []
            return [("current", self._current), *trial, *(("leaving", version) for version in self._leaving)]

    @property
    def active(self) -> int:
        """Requests being answered."""
        return sum(version.engine.active for _, version in self.loaded)

    @property
    def queued(self) -> int:
        """Requests waiting for a slot."""
        return sum(version.engine.queued for _, version in self.loaded)

    def take(self, request: str = "", tried: bool = False) -> Version:
        """The version for a request, until it is given back.

        Arguments:
            request: its id; requests of the same id get the same version of a trial.
            tried: whether a version on trial may answer it.
        """
        with self._lock:
            trial = self._trial
            version = trial.version if trial is not None and tried and trial.takes(request) else self._current
            version.users += 1
            return version

    def give_back(self, version: Version) -> None:
        """The request has ended."""
        with self._lock:
            version.users -= 1
            done = self._unused(version)
        self._close_aside(done)
        if self._trial is not None:
            self.judge()

    def swap(self, version: Version) -> None:
        """Let ``version`` answer from now on; the one before leaves. It may be the one on trial, or one that leaves."""
        with self._lock:
            if self._closed:  # the server has stopped meanwhile
                self._close_aside(version)
                return
            before, self._current = self._current, version
            if self._trial is not None and self._trial.version is version:
                self._trial = None
            if version in self._leaving:
                self._leaving.remove(version)
            self._leaving.append(before)
            self.swaps += 1
            done = self._unused(before)
        logger.info("%s answers from now on, no longer %s", version.name, before.name)
        self._close_aside(done)

    def begin_trial(self, version: Version, share: float) -> None:
        """Let ``version`` answer a ``share`` of the requests, instead of one that is on trial now."""
        self.end_trial()
        with self._lock:
            if self._closed:
                self._close_aside(version)
                return
            if version in self._leaving:
                self._leaving.remove(version)
            # What both do is compared from here on.
            version.figures, self._current.figures = Figures(), Figures()
            self._trial = Trial(version, share)
        logger.info("%s answers %.0f %% of the requests, on trial", version.name, share * 100)

    def end_trial(self) -> None:
        """The version on trial, if there is one, gets no more requests."""
        with self._lock:
            if self._trial is None:
                return
            version, self._trial = self._trial.version, None
            self._leaving.append(version)
            done = self._unused(version)
        self._close_aside(done)

    def leaving(self, digest: str) -> Version | None:
        """A version with this digest that has been replaced and still has users: it need not be loaded again."""
        with self._lock:
            return next((version for version in self._leaving if version.origin.digest == digest), None)

    def end_requests(self) -> None:
        """End all requests that are still being answered, with an error."""
        for _, version in self.loaded:
            version.engine.end_requests()

    def close(self) -> None:
        """Close all versions; running requests end with an error."""
        with self._lock:
            self._closed = True
            trial = [self._trial.version] if self._trial else []
            versions, self._leaving, self._trial = [self._current, *trial, *self._leaving], [], None
        for version in versions:
            version.close()

    def _unused(self, version: Version) -> Version | None:
        """The version, if it leaves and nobody uses it, so that it must be closed now. Needs the lock."""
        if version.users or version not in self._leaving:
            return None
        self._leaving.remove(version)
        return version

    def _close_aside(self, version: Version | None) -> None:
        """In another thread: to close waits for a decode thread, and the caller may be the event loop."""
        if version is not None:
            threading.Thread(target=_close, args=([version],), name="close version", daemon=True).start()


def _close(closing: list[Version]) -> None:
    """In a list, which is empty then: a thread holds its arguments to its end, and with them the memory."""
    version = closing.pop()
    version.close()
    name, engine = version.name, ref(version.engine)
    del version
    release(engine)
    logger.info("%s is no longer in memory", name)
