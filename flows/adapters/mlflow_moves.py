"""Who may move the champion next, decided by MLflow's registry for all machines that share it.

MLflow sets an alias without asking what it was before. So two machines that both found version 3 could both move it,
and neither would notice. What its database does decide, with every store and over HTTP, is the order of the versions
of a model: no two requests get the same number. So a move is announced first, as a version of a second registered
model, ``<name>-moves``, which says what the last announcement was when the champion was looked at. Of two that name the
same one, the lower number counts, and whoever reads the list finds the same.

Promised: of moves that were decided on the same champion, one is carried out, whatever the machines, and also if
processes are killed. Not promised: a process that stands still for longer than ``patience_seconds`` between its
announcement and its request to move the alias is taken for dead. If it goes on, it moves the alias, sees that it was
overtaken, and moves it back; if it is killed between these two requests, the alias stays where it should not be. Moves
that are made by hand in MLflow are not announced; they are seen, not prevented.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.adapters.mlflow_connection import Connection, limited
from flows.owner import is_gone, this_process

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

AFTER, VERSION, BY, OWNER, MADE = (
    "lacewing.after",
    "lacewing.version",
    "lacewing.by",
    "lacewing.process",
    "lacewing.made",
)
CARD = (
    "The order in which versions of `{name}` became champion. `lacewing` announces each move here before it makes "
    "it, so that of two machines that share this registry only one succeeds. Nothing here can be served. Do not delete "
    "versions."
)
# A mover needs three requests from its announcement to the mark that it has moved, each tried twice.
_REQUESTS = 6
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Announcement:
    """A move of the champion, as everybody sees it."""

    number: int
    """Its place in the order."""
    after: int
    """The announcement that counted last when the mover looked at the champion; 0 if there was none."""
    version: int
    """The champion that is to be."""
    by: str
    """Who moves it."""
    owner: str
    """The process that moves it."""
    made: bool
    """Whether the alias has been moved."""

    @property
    def host(self) -> str:
        """The machine, as far as a person knows it."""
        return self.owner.partition("/")[0]


class OvertakenError(Exception):
    """Somebody else has announced a move of the same champion before."""

    def __init__(self, first: Announcement) -> None:
        super().__init__(first)
        self.first = first


class Moves:
    """The announced moves of one registered model. MLflow's own errors pass, as in ``RegisteredModel``."""

    def __init__(self, connection: Connection, model: str) -> None:
        self.connection, self.model = connection, model
        self.name = f"{model}-moves"
        self.patience_seconds = float(_REQUESTS * connection.cfg.timeout_seconds)

    def last(self) -> int:
        """Number of the last announcement that counts, 0 before the first; waits while its alias is being moved.

        Ask before you look at the champion, and name the answer to ``announce``.
        """
        deadline = time.monotonic() + self.patience_seconds
        while (last := self._last()) and not last.made and not is_gone(last.owner) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return last.number if last else 0

    def announce(self, version: int, after: int, by: str) -> Announcement:
        """Announce that ``version`` becomes champion; from then on no other move that names ``after`` counts.

        Raises ``OvertakenError`` if there is one already, when that has been carried out.
        """
        from mlflow.exceptions import MlflowException

        self._ensure_model()
        tags = {AFTER: str(after), VERSION: str(version), BY: by, OWNER: this_process()}
        number = 0
        try:
            # The version that is meant is the source: the page of the announcement leads to it.
            source = f"models:/{self.model}/{version}"
            number = int(self.connection.client.create_model_version(self.name, source, tags=limited(tags)).version)
        except MlflowException:  # its database gives up if many announce at the same moment
            if self._next_to(after) is None:
                raise
        first = self._next_to(after)
        assert first is not None
        if first.number != number:
            self.last()
            raise OvertakenError(first)
        return first

    def finish(self, announcement: Announcement) -> Announcement | None:
        """Say that the alias has been moved; returns the move that counts instead, if this one came too late."""
        self.connection.client.set_model_version_tag(self.name, str(announcement.number), MADE, "yes")
        last = self._last()
        return last if last and last.number != announcement.number else None

    def _next_to(self, number: int) -> Announcement | None:
        return next((each for each in self._counting() if each.after == number), None)

    def _last(self) -> Announcement | None:
        return next(reversed(self._counting()), None)

    def _counting(self) -> list[Announcement]:
        """The announcements that count, oldest first: each was made in view of the one before."""
        versions: list[Announcement] = []
        page = None
        while page is None or page.token:
            query, token = f"name = '{self.name}'", page.token if page else None
            page = self.connection.client.search_model_versions(query, page_token=token)
            versions += map(_announcement, page)
        counting: list[Announcement] = []
        for each in sorted(versions, key=lambda version: version.number):
            if each.after == (counting[-1].number if counting else 0):
                counting.append(each)
        return counting

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.connection.client.create_registered_model(self.name, description=CARD.format(name=self.model))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _announcement(version: "ModelVersion") -> Announcement:
    tags = version.tags
    numbers = {name: int(tags[name]) if tags.get(name, "").isdigit() else -1 for name in (AFTER, VERSION)}
    return Announcement(
        number=int(version.version),
        after=numbers[AFTER],  # a version that was made by hand follows nothing, and so never counts
        version=numbers[VERSION],
        by=tags.get(BY, ""),
        owner=tags.get(OWNER, ""),
        made=MADE in tags,
    )
