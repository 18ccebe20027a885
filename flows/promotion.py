"""Which version is champion: promotion, rollback, and their history, which MLflow does not keep.

The alias is the truth: ``champion`` moves in one step of MLflow's database. Before it, only an intention is written, to
the ledger of this workspace; everything that describes the move comes after it:

    1 ledger: intended    2 alias    3 tags of the version that was promoted, or left by a rollback    4 ledger: done

A lock keeps the processes of one workspace apart. Machines that share a registry are kept apart by the registry: each
move is announced there before step 1 (``flows.adapters.mlflow_moves``), and of two at once one is refused.

So a process that is killed leaves one of two states, and the next call tells them apart by the alias. If it has not
moved, nothing has changed, and the intention is written off. If it has, steps 3 and 4 are repeated from the intention,
with its time, person and reason. A move that was made by hand in MLflow, or in another workspace, is entered as
observed. The ledger belongs to this workspace; the tags are shared. One of them is the receipt of the ledger's line, so
that a ledger whose end was cut off does not pass for whole.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.record_digest import intact
from conf.services import TrackingConfig
from flows.adapters.mlflow_connection import Connection
from flows.adapters.mlflow_moves import Announcement, Moves, OvertakenError
from flows.adapters.mlflow_registry import RegisteredModel, Version
from flows.ledger import Action, Decision, Entry, Ledger
from flows.person import person

CHAMPION, CHALLENGER = "champion", "challenger"

RECEIPT = "lacewing.ledger"

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


class ChampionMovedError(InputError):
    """The champion is no longer the one that a verdict is about."""


class Registry:
    """The registered model with its champion. Raises ``ServiceError`` when a request to MLflow fails."""

    def __init__(self, cfg: TrackingConfig) -> None:
        self.model = RegisteredModel(cfg)
        self.folder = self.model.folder
        self.ledger = Ledger(self.folder / "ledger.jsonl", self.connection.address, self.name)
        self.moves = Moves(self.connection, self.name)

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

    def listed(self) -> list[tuple[Version, list[str], dict[str, float]]]:
        """All versions with their aliases and figures, newest first."""
        with self.connection.explained():
            versions = self.model.versions()
            aliases = self.model.aliases() if versions else {}
            return [(each, aliases.get(each.number, []), self.model.figures(each)) for each in reversed(versions)]

    def rolled_back(self, key: str) -> Version | None:
        """The version of the bundle ``key`` that was rolled back, if any."""
        with self._alone(), self.connection.explained():
            self._settle()
            return next(iter(self._rolled_back(key)), None)

    def champion(self) -> Artifact | None:
        """The champion's bundle, verified; ``None`` before the first promotion."""
        version = self.version(CHAMPION)
        return self.model.bundle(version) if version else None

    def bundle(self, version: Version) -> Artifact:
        """The version's bundle, verified; fetched if it is not here.

        Raises ``ArtifactError`` if its files were altered, ``ServiceError`` if they cannot be fetched.
        """
        with self.connection.explained():
            return self.model.bundle(version)

    def resolve(self, reference: str) -> Artifact:
        """The verified bundle meant by ``champion``, ``challenger``, a version number or a folder.

        Raises ``InputError`` if there is no such model and ``ArtifactError`` if its files were altered.
        """
        if reference not in (CHAMPION, CHALLENGER) and not reference.isdigit():
            if not reference or not Path(reference).is_dir():
                raise InputError(
                    f"model={reference!r} is neither {CHAMPION!r}, {CHALLENGER!r}, the number of a version nor a folder"
                )
            return intact(Artifact.open(Path(reference).absolute()))
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
        intact(bundle)
        with self._alone(), self.connection.explained():
            same = self.model.versions(bundle.key)
            version = same[0] if same else self.model.create(bundle, tags or {})
            if verdict or not same:
                version = self.model.describe(version, bundle, verdict or {})
            self.model.set_alias(CHALLENGER, version)
            return version

    def promote(
        self,
        number: int,
        reason: str,
        by: str = "",
        *,
        allow_rolled_back: bool = False,
        judged_against: str | None = None,
    ) -> Version:
        """Make version ``number`` the champion. Promoting the champion again changes nothing.

        Args:
            number: the version.
            reason: why, for its tags and the ledger.
            by: who; the current user if empty.
            allow_rolled_back: also if its bundle was rolled back before.
            judged_against: key of the champion's bundle that it was compared with, empty if there was no champion;
                ``None`` if it was not compared.

        Raises ``InputError`` if there is no such version or its bundle was rolled back before, and
        ``ChampionMovedError`` if it was compared with a bundle that is not the champion now, or if somebody else moves
        the champion at the same moment.
        """
        with self._alone(), self.connection.explained():
            seen = self.moves.last()  # before the champion is looked at: who moves it from here on is noticed
            version = self.model.version(str(number))
            if version is None:
                raise InputError(f"the model {self.name!r} at {self.connection.address} has no version {number}")
            champion = self._champion()
            if judged_against not in (None, champion.key if champion else ""):
                raise ChampionMovedError(_moved(version, champion, str(judged_against)))
            left = self._rolled_back(version.key)
            if left and not allow_rolled_back:
                raise _refusal(left[0])
            if champion and champion.number == number:
                return champion
            self._move("promote", version, champion, seen, reason, by)
            return self.model.existing(number)

    def decided(self, version: Version, decision: Decision, reason: str, by: str = "") -> None:
        """Write down that ``version`` does not become champion; the same decision again is the same line."""
        with self._alone(), self.connection.explained():
            champion = self._champion()
            against = champion.number if champion else 0
            entry = self._described(decision, version, against, by or person(), reason)
            same = {"time", "by", "after"}
            earlier = [each for each in self.ledger.entries() if each.version == version.number]
            if earlier and earlier[-1].model_dump(exclude=same) == entry.model_dump(exclude=same):
                return
            self.model.tag(version, {RECEIPT: self.ledger.receipt(entry)})
            self.ledger.append(entry)

    def ledger_fault(self) -> str | None:
        """Where the ledger is not as it was written, in words; ``None`` if nowhere."""
        with self._alone(), self.connection.explained():
            self._settle()
            receipts = {str(each): each.tags[RECEIPT] for each in self.model.versions() if RECEIPT in each.tags}
            return self.ledger.fault(receipts)

    def rollback(self, reason: str = "", by: str = "") -> Version:
        """Return to the champion before this one that was not itself rolled back; it is the champion from then on.

        Raises ``InputError`` if there is no champion, or none before it, and ``ChampionMovedError`` if somebody else
        moves the champion at the same moment.
        """
        with self._alone(), self.connection.explained():
            seen = self.moves.last()
            champion = self._champion()
            if champion is None:
                raise InputError(f"the model {self.name!r} at {self.connection.address} has no champion to roll back")
            target = self._champion_before(champion)
            self._move("rollback", target, champion, seen, reason, by)
            return target

    # How

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".registry.lock"):
            yield

    def _move(
        self,
        action: Action,
        to: Version,
        champion: Version | None,
        seen: int,
        reason: str,
        by: str,
    ) -> None:
        by = by or person()
        try:
            mine = self.moves.announce(to.number, seen, by)
        except OvertakenError as overtaken:
            raise ChampionMovedError(self._overtaken(action, to, overtaken.first)) from overtaken
        previous = champion.number if champion else 0
        move = self._described(action, to, previous, by, reason).model_copy(update={"state": "intended"})
        self.ledger.append(move)
        self.model.set_alias(CHAMPION, to)
        if other := self.moves.finish(mine):  # this process stood still for so long that it was taken for dead
            self.model.set_alias(CHAMPION, self.model.existing(other.version))
            raise ChampionMovedError(self._overtaken(action, to, other))
        self._complete(move)

    def _complete(self, move: Entry) -> None:
        """What follows the move of the alias; doing it twice is as good as once."""
        done = move.model_copy(update={"state": "done"})
        receipt = {RECEIPT: self.ledger.receipt(done)}
        if move.action == "promote":
            described = {PREVIOUS: str(move.previous), PROMOTED_BY: move.by, REASON: move.reason, **receipt}
            self.model.tag(self.model.existing(move.version), {PROMOTED_AT: _text(move.time), **described})
            for same in self._rolled_back(move.key):
                self.model.remove_tag(same, ROLLED_BACK)
        elif left := self.model.version(str(move.previous)):  # nobody has deleted it since
            described = {ROLLED_BACK_BY: move.by, ROLLBACK_REASON: move.reason, **receipt}
            self.model.tag(left, {ROLLED_BACK: _text(move.time), **described})
        self.ledger.append(done)

    def _settle(self) -> None:
        """Complete the move of a process that was killed, or write it off if it had not moved the alias yet."""
        move = self.ledger.interrupted()
        if move is None:
            return
        champion = self.model.version(CHAMPION)
        if champion and champion.number == move.version:
            self._complete(move)
        else:
            self.ledger.append(move.model_copy(update={"state": "abandoned"}))

    def _rolled_back(self, key: str) -> list[Version]:
        return [version for version in self.model.versions(key) if ROLLED_BACK in version.tags]

    def _champion(self) -> Version | None:
        """The champion; a move that the ledger does not know is added to it first, and made reversible by its tag."""
        self._settle()
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
        self.ledger.append(self._described("observed", champion, before, by, reason))
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

    def _overtaken(self, action: Action, to: Version, other: Announcement) -> str:
        advice = {
            "promote": "Compare again: `lacewing release` does.",
            "rollback": "Look at the champion, and roll back again if it should still go.",
        }
        return (
            f"{to} was not made champion: at the same moment {other.by} on {other.host} has made version "
            f"{other.version} the champion of {self.name!r} at {self.connection.address}. {advice[action]}"
        )

    def _described(self, action: Action, to: Version, previous: int, by: str, reason: str) -> Entry:
        return Entry(
            time=datetime.now(UTC),
            action=action,
            uri=self.ledger.uri,
            model=self.name,
            version=to.number,
            key=to.key,
            previous=previous,
            by=by,
            reason=reason,
        )


def _moved(version: Version, champion: Version | None, judged_against: str) -> str:
    now = str(champion) if champion else "no version at all"
    then = f"the bundle {judged_against[:16]}" if judged_against else "no champion"
    return (
        f"{version} was compared with {then}, but the champion is {now} by now. Compare again: `lacewing release` does."
    )


def _refusal(left: Version) -> InputError:
    return InputError(
        f"{left} was rolled back on {left.tags[ROLLED_BACK]} by {left.tags.get(ROLLED_BACK_BY)}: "
        f"{left.tags.get(ROLLBACK_REASON) or 'no reason given'}. To promote the same model again, "
        "set release.allow_rolled_back=true."
    )


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
