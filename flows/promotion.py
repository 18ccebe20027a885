"""Which version is champion: promotion, rollback, and their history, which MLflow does not keep.

The alias is the truth: ``champion`` moves in one step of MLflow's database. Everything needed to undo a move is written
before it, everything that only reports it after it, so a process killed at any moment leaves a state that the next
call completes:

    promote   1 tags on the new version: previous champion, who, when, why    2 alias    3 line in the ledger
    rollback  1 tag ``rolled_back`` on the version that is left               2 alias    3 line in the ledger

Killed after 1: promote has changed nothing yet; a version marked as rolled back is still champion, and ``rollback``
again completes it. (Marked first, because the other order could promote the bad model again in the next run.) Killed
after 2: the next promotion or rollback finds that the ledger's last line is not the champion and adds it. That is also
how a move that was made by hand in MLflow is recorded. The ledger belongs to this workspace; the tags are shared.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock

from components.core.artifact import Artifact
from components.core.errors import InputError
from conf.services import TrackingConfig
from flows.adapters.mlflow_connection import Connection
from flows.adapters.mlflow_registry import RegisteredModel, Version
from flows.ledger import Ledger, Move
from flows.person import person

CHAMPION, CHALLENGER = "champion", "challenger"

PREVIOUS, PROMOTED_AT, PROMOTED_BY, REASON = (
    "lacewing.previous_champion",
    "lacewing.promoted_at",
    "lacewing.promoted_by",
    "lacewing.reason",
)
ROLLED_BACK, ROLLED_BACK_BY, ROLLBACK_REASON = (
    "lacewing.rolled_back",
    "lacewing.rolled_back_by",
    "lacewing.rollback_reason",
)


class Registry:
    """The registered model with its champion. Raises ``ServiceError`` when a request to MLflow fails."""

    def __init__(self, cfg: TrackingConfig) -> None:
        self.model = RegisteredModel(cfg)
        self.folder = self.model.folder
        self.ledger = Ledger(self.folder / "ledger.jsonl", self.connection.address, self.name)

    @property
    def name(self) -> str:
        """Name of the registered model."""
        return self.model.name

    @property
    def connection(self) -> Connection:
        return self.model.connection

    # Reading

    def version(self, reference: str | int) -> Version | None:
        """The version with this alias or number; ``None`` if there is none."""
        with self.connection.explained():
            return self.model.version(str(reference))

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with self.connection.explained():
            return self.model.versions()

    def rolled_back(self, key: str) -> Version | None:
        """The version of the bundle ``key`` that was rolled back, if any."""
        with self.connection.explained():
            return next(iter(self._rolled_back(key)), None)

    def champion(self) -> Artifact | None:
        """The champion's bundle, verified; ``None`` before the first promotion."""
        version = self.version(CHAMPION)
        return self.model.bundle(version) if version else None

    def resolve(self, reference: str) -> Artifact:
        """The verified bundle meant by ``champion``, ``challenger``, a version number or a folder.

        Raises ``InputError`` if there is no such model and ``ArtifactError`` if its files were altered.
        """
        if reference not in (CHAMPION, CHALLENGER) and not reference.isdigit():
            if not reference or not Path(reference).is_dir():
                raise InputError(
                    f"model={reference!r} is neither {CHAMPION!r}, {CHALLENGER!r}, the number of a version nor a folder"
                )
            return Artifact.open(Path(reference).absolute()).verify()
        if version := self.version(reference):
            return self.model.bundle(version)
        known = ", ".join(str(version.number) for version in self.versions()) or "none"
        raise InputError(
            f"{self.connection.address} has no {reference!r} of the model {self.name!r} (versions: {known}). "
            "`lacewing pipeline` trains, registers and promotes one."
        )

    # Writing

    def register(
        self, bundle: Artifact, tags: Mapping[str, str] | None = None, verdict: Mapping[str, str] | None = None
    ) -> Version:
        """Upload ``bundle`` and make it a version; the same bundle again is the same version, and ``challenger``.

        Args:
            bundle: the sealed folder of weights, tokenizer, configuration and manifest.
            tags: facts about a new version, for example ``{"lacewing.note": "for the demonstration"}``.
            verdict: tags that say what the gate decided; a version that exists gets those of the latest decision.
        """
        bundle.verify()
        with self._alone(), self.connection.explained():
            same = self.model.versions(bundle.key)
            version = same[0] if same else self.model.create(bundle, tags or {})
            if verdict or not same:
                version = self.model.describe(version, bundle, verdict or {})
            self.model.set_alias(CHALLENGER, version)
            return version

    def promote(self, number: int, reason: str, by: str = "", allow_rolled_back: bool = False) -> Version:
        """Make version ``number`` the champion. Promoting the champion again changes nothing.

        Raises ``InputError`` if its bundle was rolled back before, unless ``allow_rolled_back``.
        """
        with self._alone(), self.connection.explained():
            version = self.model.version(str(number))
            if version is None:
                raise InputError(f"the model {self.name!r} at {self.connection.address} has no version {number}")
            champion = self._champion()
            left = self._rolled_back(version.key)
            if left and not allow_rolled_back:
                raise _refusal(left[0])
            if champion and champion.number == number:
                return champion
            self._promote(version, champion, left, reason, by or person())
            return self.model.existing(number)

    def rollback(self, reason: str = "", by: str = "") -> Version:
        """Return to the champion before this one that was not itself rolled back; it is the champion from then on.

        Raises ``InputError`` if there is no champion, or none before it.
        """
        with self._alone(), self.connection.explained():
            champion = self._champion()
            if champion is None:
                raise InputError(f"the model {self.name!r} at {self.connection.address} has no champion to roll back")
            target = self._champion_before(champion)
            now, by = datetime.now(UTC), by or person()
            self.model.tag(champion, {ROLLED_BACK: _text(now), ROLLED_BACK_BY: by, ROLLBACK_REASON: reason})
            self.model.set_alias(CHAMPION, target)
            self._write_down(now, "rollback", target, champion.number, by, reason)
            return target

    # How

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".registry.lock"):
            yield

    def _promote(self, version: Version, champion: Version | None, left: list[Version], reason: str, by: str) -> None:
        previous = champion.number if champion else 0
        now = datetime.now(UTC)
        self.model.tag(version, {PREVIOUS: str(previous), PROMOTED_AT: _text(now), PROMOTED_BY: by, REASON: reason})
        for same in left:
            self.model.remove_tag(same, ROLLED_BACK)
        self.model.set_alias(CHAMPION, version)
        self._write_down(now, "promote", version, previous, by, reason)

    def _rolled_back(self, key: str) -> list[Version]:
        return [version for version in self.model.versions(key) if ROLLED_BACK in version.tags]

    def _champion(self) -> Version | None:
        """The champion; a move that the ledger does not know is added to it first, and made reversible by its tag."""
        champion = self.model.version(CHAMPION)
        last = self.ledger.last()
        if champion is None or (last and last.version == champion.number):
            return champion
        before = last.version if last else 0
        if PREVIOUS not in champion.tags and before and self.model.version(str(before)):
            self.model.tag(champion, {PREVIOUS: str(before)})
            champion = self.model.existing(champion.number)
        by = champion.tags.get(PROMOTED_BY, "unknown")
        reason = champion.tags.get(REASON, "moved outside this workspace")
        self._write_down(datetime.now(UTC), "observed", champion, before, by, reason)
        return champion

    def _champion_before(self, champion: Version) -> Version:
        seen = {champion.number}
        version: Version | None = champion
        while version and (number := int(version.tags.get(PREVIOUS, "0"))) and number not in seen:
            seen.add(number)
            version = self.model.version(str(number))
            if version and ROLLED_BACK not in version.tags:
                return version
        raise InputError(
            f"{champion} has no champion before it that was not rolled back itself; it stays champion of "
            f"{self.name!r} at {self.connection.address}"
        )

    def _write_down(
        self,
        time: datetime,
        action: Literal["promote", "rollback", "observed"],
        version: Version,
        previous: int,
        by: str,
        reason: str,
    ) -> None:
        move = Move(
            time=time,
            action=action,
            uri=self.ledger.uri,
            model=self.name,
            version=version.number,
            key=version.key,
            previous=previous,
            by=by,
            reason=reason,
        )
        self.ledger.append(move)


def _refusal(left: Version) -> InputError:
    return InputError(
        f"{left} was rolled back on {left.tags[ROLLED_BACK]} by {left.tags.get(ROLLED_BACK_BY)}: "
        f"{left.tags.get(ROLLBACK_REASON) or 'no reason given'}. To promote the same model again, "
        "set release.allow_rolled_back=true."
    )


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
