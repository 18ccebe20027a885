"""Keeps the versions of a server at what its registry wants: loads, checks, swaps, and refuses what is not right.

The registry is asked elsewhere; what comes here is the state that it wants (``wanted.py``). A thread of its own
compares that with what is loaded. Only the latest state counts: what came while a version was loading is overtaken by
what came last. Nothing here stops the server: whatever is wrong with a version or the registry, the old one goes on.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from components.core.errors import LacewingError
from components.deployment.canary import fault
from components.deployment.config import CanaryConfig
from components.deployment.registry_state import RegistryState
from components.deployment.versions import Version, Versions
from components.deployment.wanted import Target, Wanted

logger = logging.getLogger(__name__)

Load = Callable[[Target], Version]

# What was not there may come back, and what was damaged may be mended. The pause doubles with each try.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 300.0


@dataclass
class _Refusal:
    """A version that could not be used. ``again`` is when it is tried again, in seconds of the monotonic clock."""

    reason: str
    again: float
    pause: float


class Following:
    """Follows what it is told. Close it before the versions."""

    def __init__(self, versions: Versions, load: Load, cfg: CanaryConfig) -> None:
        """
        Arguments:
            versions: of the server.
            load: makes a version of a target, or raises what is wrong with it.
            cfg: the share of a trial, and when it ends.
        """
        self._versions, self._load, self._cfg = versions, load, cfg
        self._state = versions.registry or RegistryState()
        versions.registry = self._state
        versions.judge = self._judge
        self._refused: dict[tuple[str, str], _Refusal] = {}
        self._aborted: set[str] = set()
        self._latest: Wanted | None = None
        self._closed = False
        self._told = threading.Condition()
        threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def told(self, wanted: Wanted) -> None:
        """The registry wants this now. Returns at once; may be called from any thread."""
        with self._told:
            self._latest = wanted
            self._told.notify()

    def close(self) -> None:
        """Follow no longer. Does not wait for a version that is loading; it is dropped."""
        with self._told:
            self._closed = True
            self._told.notify()

    def settle(self, wanted: Wanted) -> None:
        """Make the loaded versions those that are ``wanted``, as far as they can be."""
        self._state.looked = time.time()
        if wanted.fault:
            if self._state.fault != wanted.fault:
                logger.warning(
                    "the registry does not say which version is wanted, %s goes on: %s",
                    self._versions.current.name,
                    wanted.fault,
                )
            self._state.fault = wanted.fault
            return
        if self._state.fault:
            logger.warning("the registry answers again")
            self._state.fault = ""
        self._forget_others(wanted)
        if wanted.served is not None and wanted.served.digest != self._versions.current.origin.digest:
            self._serve(wanted.served)
        self._try_out(wanted.canary)

    def _follow(self) -> None:
        while True:
            with self._told:
                self._told.wait_for(lambda: self._closed or self._latest is not None)
                if self._closed:
                    return
                wanted, self._latest = self._latest, None
            assert wanted is not None
            try:
                self.settle(wanted)
            except Exception:  # of ours; the thread must go on to follow
                logger.exception("the registry was not followed")

    def _serve(self, target: Target) -> None:
        trial = self._versions.trial
        if trial is not None and trial.version.origin.digest == target.digest:
            self._versions.swap(trial.version)
        elif version := self._loaded(target):
            self._versions.swap(version)

    def _try_out(self, target: Target | None) -> None:
        """Begin or end a trial. A version that is served already, or was taken off its trial before, gets none."""
        trial = self._versions.trial
        if target is not None and target.digest in (self._versions.current.origin.digest, *self._aborted):
            target = None
        if trial is not None and (target is None or trial.version.origin.digest != target.digest):
            self._versions.end_trial()
            logger.info("%s is no longer on trial", trial.version.name)
            trial = None
        if target is not None and trial is None and self._cfg.canary and (version := self._loaded(target)):
            self._versions.begin_trial(version, self._cfg.canary)

    def _loaded(self, target: Target) -> Version | None:
        """The version, loaded and checked; ``None`` if it is refused."""
        if version := self._versions.leaving(target.digest):
            return version
        refusal = self._refused.get(_key(target))
        if target.fault:
            self._refuse(target, target.fault, again=0.0)
            return None
        if refusal is not None and time.monotonic() < refusal.again:
            return None
        logger.info("%s is loaded beside %s", target.name, self._versions.current.name)
        try:
            version = self._load(target)
        except Exception as error:  # also torch's own, such as a lack of memory: the old version goes on
            if not isinstance(error, LacewingError):
                logger.exception("%s cannot be loaded", target.name)
            pause = min(_LONGEST_PAUSE_SECONDS, 2 * refusal.pause if refusal else _FIRST_PAUSE_SECONDS)
            self._refuse(target, str(error) or type(error).__name__, time.monotonic() + pause, pause)
            return None
        self._refused.pop(_key(target), None)
        self._state.refused.pop(target.name, None)
        return version

    def _refuse(self, target: Target, reason: str, again: float, pause: float = _FIRST_PAUSE_SECONDS) -> None:
        before = self._refused.get(_key(target))
        self._refused[_key(target)] = _Refusal(reason, again, pause)
        self._state.refused[target.name] = reason
        if before is None or before.reason != reason:
            self._state.refusals += 1
            logger.warning("%s is refused, %s goes on: %s", target.name, self._versions.current.name, reason)

    def _forget_others(self, wanted: Wanted) -> None:
        """Refusals of versions that nobody wants any more: when one is wanted again, it is tried again."""
        keys = [_key(target) for target in (wanted.served, wanted.canary) if target is not None]
        self._refused = {key: refusal for key, refusal in self._refused.items() if key in keys}
        self._state.refused = {name: refusal.reason for (name, _), refusal in self._refused.items()}

    def _judge(self) -> None:
        """End the trial if the version answers worse than the current one. Called when an answer has ended."""
        trial = self._versions.trial
        if trial is None:
            return
        found = fault(trial.version.figures, self._versions.current.figures, self._cfg)
        if found is None:
            return
        self._aborted.add(trial.version.origin.digest)
        self._state.aborted[trial.version.name] = found.text
        self._state.aborts[found.kind] += 1
        logger.warning("the trial of %s is ended, it gets no more requests: %s", trial.version.name, found.text)
        self._versions.end_trial()


def _key(target: Target) -> tuple[str, str]:
    return target.name, target.digest
