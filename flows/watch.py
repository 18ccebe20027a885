"""Asks the registry again and again, and writes what it wants as lines of JSON, for a server that follows it.

``python -m flows.watch --settings JSON`` is started by that server, with the words that ``lacewing serve`` gave it, and
ends with it. It fetches and verifies the files of a version before it names the folder.
"""

import argparse
import os
import signal
import sys
import time
from typing import IO

from pydantic import BaseModel, ConfigDict, PositiveFloat

from components.core.errors import LacewingError
from components.core.parent import FOLLOW_PARENT, follow_parent
from components.deployment.wanted import Target, Wanted
from conf.services import TRACKING_URI, TrackingConfig
from flows.adapters.mlflow_pages import version_page
from flows.adapters.mlflow_registry import Version, record_digest
from flows.promotion import CHALLENGER, CHAMPION, Registry

# After a version could not be fetched; the registry itself is asked as often as ever.
FETCH_AGAIN_SECONDS = 30.0
# Behind the server's own work, which answers people on the same cores; more would delay a rollback on a busy machine.
_NICENESS = 5


class WatchSettings(BaseModel):
    """What is watched."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tracking: TrackingConfig
    """Where the registry is. Its address may hold a password, so it comes in the environment instead."""
    served: str
    """Alias of the version that should answer."""
    canary: bool
    """Whether ``challenger`` is put on trial, beside ``champion``."""
    every_seconds: PositiveFloat
    """Pause between two looks."""
    server: str = ""
    """Address of MLflow's pages; empty if no server shows them."""


class Watcher:
    """Remembers what it has fetched."""

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._registry = Registry(settings.tracking)
        self._fetched: dict[str, Target] = {}
        self._again: dict[str, float] = {}

    def look(self) -> Wanted:
        """What the registry wants now."""
        settings, registry = self._settings, self._registry
        try:
            served = registry.version(settings.served)
            tried = settings.canary and settings.served == CHAMPION
            canary = registry.version(CHALLENGER) if tried else None
        except LacewingError as error:
            return Wanted(fault=str(error))
        if served is None:
            address = registry.connection.address
            return Wanted(fault=f"{address} has no {settings.served!r} of the model {registry.name!r} any more")
        if canary is not None and canary.number == served.number:
            canary = None
        targets = {version.number: self._target(version) for version in (served, canary) if version is not None}
        self._fetched = {target.digest: target for target in targets.values()}
        return Wanted(served=targets[served.number], canary=targets[canary.number] if canary is not None else None)

    def _target(self, version: Version) -> Target:
        digest = record_digest(version)
        known = self._fetched.get(digest)
        if known is not None and (not known.fault or time.monotonic() < self._again[digest]):
            return known
        server = self._settings.server
        page = version_page(server, version.model, version.number) if server else ""
        target = Target(name=f"{version.model}/{version.number}", digest=digest, page=page)
        try:
            return target.model_copy(update={"folder": str(self._registry.bundle(version).folder)})
        except LacewingError as error:
            self._again[digest] = time.monotonic() + FETCH_AGAIN_SECONDS
            return target.model_copy(update={"fault": str(error)})


def main() -> None:
    """Watch until the parent ends."""
    parser = argparse.ArgumentParser(prog="python -m flows.watch", description=__doc__)
    parser.add_argument("--settings", required=True, type=WatchSettings.model_validate_json)
    parser.add_argument(FOLLOW_PARENT, action="store_true", help="Stop at the end of standard input.")
    given = parser.parse_args()
    if given.follow_parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; this one ends with it
        follow_parent(lambda: os._exit(0))
    os.nice(_NICENESS)
    lines = _only_ours()
    watcher = Watcher(given.settings)
    while True:
        print(watcher.look().model_dump_json(), file=lines, flush=True)
        time.sleep(given.settings.every_seconds)


def _only_ours() -> IO[str]:
    """Standard output, and whatever others print to it goes to standard error from now on."""
    sys.stdout.flush()
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lines


def command(settings: WatchSettings) -> list[str]:
    """The command that watches. MLflow's address, which may hold a password, goes into this process's environment."""
    if settings.tracking.uri:
        os.environ[TRACKING_URI] = settings.tracking.uri
    words = settings.model_dump_json(exclude={"tracking": {"uri"}})
    return [sys.executable, "-m", "flows.watch", "--settings", words]


if __name__ == "__main__":
    main()
