"""Models in MLflow's registry, and the memory that MLflow lacks: who was champion, who moved it and why.

A bundle's files are uploaded once, as an MLflow logged model; a version of the registered model points at them. The
digest of the bundle's record is kept with the version, so that a file altered in the artifact store is noticed.

The alias is the truth: ``champion`` moves in one step of MLflow's database. Everything needed to undo a move is written
before it, everything that only reports it after it, so a process killed at any moment leaves a state that the next
call completes:

    promote   1 tags on the new version: previous champion, who, when, why    2 alias    3 line in the ledger
    rollback  1 tag ``rolled_back`` on the version that is left               2 alias    3 line in the ledger

Killed after 1: promote has changed nothing yet; a version marked as rolled back is still champion, and ``rollback``
again completes it. (Marked first, because the other order could promote the bad model again in the next run.)
Killed after 2: the next promotion or rollback finds that the ledger's last line is not the champion and adds it. That
is also how a move made by hand in MLflow comes in. The ledger is this workspace's; the tags are everybody's.
"""

import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from components.core.artifact import RECORD, Artifact
from components.core.errors import ArtifactError, InputError
from components.core.identity import digest_file, digest_json
from conf.services import TrackingConfig
from flows.connection import Connection
from flows.tracking import FlowTracker, TrackingRecord
from flows.workspace import find_artifact

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
Alias = Literal["champion", "challenger"]

KEY, RECORD_DIGEST = "lacewing.key", "lacewing.record_sha256"
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


@dataclass(frozen=True)
class Version:
    """One version of the registered model."""

    model: str
    number: int
    tags: dict[str, str]

    @property
    def key(self) -> str:
        """Key of the bundle."""
        return self.tags.get(KEY, "")

    @property
    def rolled_back(self) -> bool:
        return ROLLED_BACK in self.tags

    def __str__(self) -> str:
        return f"{self.model} version {self.number} (bundle {self.key[:16]})"


class Move(BaseModel):
    """One line of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    time: datetime
    """When, in UTC."""
    action: Literal["promote", "rollback", "observed"]
    """``observed``: the move was made elsewhere, or by a process that died before it could write this line."""
    uri: str
    """Address of MLflow."""
    model: str
    """Name of the registered model."""
    version: int
    """The champion from now on."""
    key: str
    """Key of its bundle."""
    previous: int
    """The champion before; 0 if there was none."""
    by: str
    """Who did it."""
    reason: str
    """Why."""


class Registry:
    """The registered model at one MLflow address. Raises ``ServiceError`` when a request to MLflow fails."""

    def __init__(self, cfg: TrackingConfig) -> None:
        self.cfg = cfg
        self.model = cfg.registered_model
        self.connection = Connection(cfg)
        self.folder = self.connection.workspace
        self.ledger = Ledger(self.folder / "ledger.jsonl", self.connection.address, self.model)

    # Reading

    def version(self, reference: str | int) -> Version | None:
        """The version with this alias or number; ``None`` if there is none."""
        with self.connection.explained():
            return self._version(str(reference))

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with self.connection.explained():
            return self._search(f"name = '{self.model}'")

    def rolled_back(self, key: str) -> Version | None:
        """The version of the bundle ``key`` that somebody has rolled back, if any."""
        with self.connection.explained():
            return next((version for version in self._with_key(key) if version.rolled_back), None)

    def champion(self) -> Artifact | None:
        """The champion's bundle, verified; ``None`` before the first promotion."""
        version = self.version(CHAMPION)
        return self._bundle(version) if version else None

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
            return self._bundle(version)
        known = ", ".join(str(version.number) for version in self.versions()) or "none"
        raise InputError(
            f"{self.connection.address} has no {reference!r} of the model {self.model!r} (versions: {known}). "
            "`lacewing pipeline` trains, registers and promotes one."
        )

    # Writing

    def register(self, bundle: Artifact, tags: Mapping[str, str] | None = None) -> Version:
        """Upload ``bundle`` and make it a version; the same bundle again is the same version, and ``challenger``.

        Args:
            bundle: the sealed folder of weights, tokenizer, configuration and manifest.
            tags: more facts about the version, for example ``{"lacewing.bits_per_byte": "1.23"}``.
        """
        bundle.verify()
        with self._alone(), self.connection.explained():
            same = self._with_key(bundle.key)
            version = same[0] if same else self._create(bundle, {**_tags_of(bundle), **(tags or {})})
            self.connection.client.set_registered_model_alias(self.model, CHALLENGER, str(version.number))
            return version

    def promote(self, number: int, reason: str, by: str = "", allow_rolled_back: bool = False) -> Version:
        """Make version ``number`` the champion. Promoting the champion again changes nothing.

        Raises ``InputError`` if its bundle was rolled back before, unless ``allow_rolled_back``.
        """
        with self._alone(), self.connection.explained():
            version = self._version(str(number))
            if version is None:
                raise InputError(f"the model {self.model!r} at {self.connection.address} has no version {number}")
            champion = self._version(CHAMPION)
            champion = self._complete_ledger(champion) if champion else None
            left = [same for same in self._with_key(version.key) if same.rolled_back]
            if left and not allow_rolled_back:
                raise InputError(
                    f"{left[0]} was rolled back on {left[0].tags[ROLLED_BACK]} by {left[0].tags.get(ROLLED_BACK_BY)}: "
                    f"{left[0].tags.get(ROLLBACK_REASON) or 'no reason given'}. To promote the same model again, "
                    "set release.allow_rolled_back=true."
                )
            if champion and champion.number == number:
                return champion
            previous = champion.number if champion else 0
            now, by = datetime.now(UTC), by or _person()
            self._tag(version, {PREVIOUS: str(previous), PROMOTED_AT: _text(now), PROMOTED_BY: by, REASON: reason})
            for same in left:
                self.connection.client.delete_model_version_tag(self.model, str(same.number), ROLLED_BACK)
            self.connection.client.set_registered_model_alias(self.model, CHAMPION, str(number))
            self.ledger.append(now, "promote", version, previous, by, reason)
            return self._existing(number)

    def rollback(self, reason: str = "", by: str = "") -> Version:
        """Return to the champion before this one that was not itself rolled back; it is the champion from then on.

        Raises ``InputError`` if there is no champion, or none before it.
        """
        with self._alone(), self.connection.explained():
            champion = self._version(CHAMPION)
            if champion is None:
                raise InputError(f"the model {self.model!r} at {self.connection.address} has no champion to roll back")
            champion = self._complete_ledger(champion)
            target = self._champion_before(champion)
            now, by = datetime.now(UTC), by or _person()
            self._tag(champion, {ROLLED_BACK: _text(now), ROLLED_BACK_BY: by, ROLLBACK_REASON: reason})
            self.connection.client.set_registered_model_alias(self.model, CHAMPION, str(target.number))
            self.ledger.append(now, "rollback", target, champion.number, by, reason)
            return target

    # How

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".registry.lock"):
            yield

    def _version(self, reference: str) -> Version | None:
        from mlflow.exceptions import MlflowException

        client = self.connection.client
        try:
            if reference.isdigit():
                return _of(client.get_model_version(self.model, reference))
            return _of(client.get_model_version_by_alias(self.model, reference))
        except MlflowException as error:
            # A missing alias is an "invalid parameter" to SQLite stores, a missing model or version "does not exist".
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or ("alias" in str(error) and "not found" in str(error)):
                return None
            raise

    def _existing(self, number: int) -> Version:
        return _of(self.connection.client.get_model_version(self.model, str(number)))

    def _search(self, query: str) -> list[Version]:
        versions: list[Version] = []
        page = None
        while page is None or page.token:
            page = self.connection.client.search_model_versions(query, page_token=page.token if page else None)
            versions += map(_of, page)
        return sorted(versions, key=lambda version: version.number)

    def _with_key(self, key: str) -> list[Version]:
        return self._search(f"name = '{self.model}' and tags.`{KEY}` = '{key}'")

    def _tag(self, version: Version, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self.connection.client.set_model_version_tag(self.model, str(version.number), name, value)

    def _create(self, bundle: Artifact, tags: dict[str, str]) -> Version:
        from mlflow.exceptions import MlflowException

        client = self.connection.client
        run_id = self._run_of(bundle)
        try:
            client.create_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        model = self._uploaded(bundle, run_id)
        # The location, not models:/m-...: MLflow resolves that through the process's default address.
        return _of(
            client.create_model_version(
                self.model,
                source=model.artifact_location,
                run_id=run_id,
                tags=tags,
                model_id=model.model_id,
                description=_description(bundle),
            )
        )

    def _uploaded(self, bundle: Artifact, run_id: str) -> Any:
        """The logged model with the bundle's files; an earlier attempt's upload is taken up, not repeated beside it."""
        client, experiment = self.connection.client, self.connection.experiment_id
        found = client.search_logged_models([experiment], f"tags.`{KEY}` = '{bundle.key}'")
        model = (
            found[0]
            if found
            else client.create_logged_model(
                experiment, name=self.model, source_run_id=run_id, tags={KEY: bundle.key}, model_type="lacewing-bundle"
            )
        )
        if str(model.status) != "READY":
            with _sealed_files_of(bundle) as folder:
                client.log_model_artifacts(model.model_id, str(folder))
            model = client.finalize_logged_model(model.model_id, "READY")
        return model

    def _run_of(self, bundle: Artifact) -> str:
        """The run of the stage that made the bundle; sent now if it has not been."""
        tracker = FlowTracker(self.cfg, "release")
        tracker.upload(bundle, certain=True)
        tracker.end()
        if tracker.failure:
            raise tracker.failure
        entry = TrackingRecord.read(bundle.folder).at(self.connection)
        assert entry is not None
        return entry.run_id

    def _bundle(self, version: Version) -> Artifact:
        """The version's files: where they were made if they are still there and intact, else fetched."""
        expected = version.tags.get(RECORD_DIGEST)
        made = find_artifact(version.key)
        if made and _sound(made, expected):
            return made
        folder = self.folder / "models" / version.key[:16]
        with FileLock(self.folder / ".models.lock"):
            if not ((folder / RECORD).exists() and _sound(Artifact.open(folder), expected)):
                self._fetch(version, folder)
        return Artifact.open(folder)

    def _fetch(self, version: Version, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
            with self.connection.explained():
                location = self.connection.client.get_model_version_download_uri(self.model, str(version.number))
                fetched = Artifact.open(self.connection.download(location, Path(scratch)))
            if digest_file(fetched.folder / RECORD) != version.tags.get(RECORD_DIGEST):
                raise ArtifactError(
                    f"{version} was altered in the artifact store: its record is not the registered one"
                )
            if fault := fetched.fault():
                raise ArtifactError(f"{version} was altered in the artifact store: {fault}")
            shutil.rmtree(folder, ignore_errors=True)
            fetched.folder.rename(folder)

    def _complete_ledger(self, champion: Version) -> Version:
        """Add the line for a move that the ledger does not know, and the tag that makes the move reversible."""
        last = self.ledger.last()
        if last and last.version == champion.number:
            return champion
        before = last.version if last else 0
        if PREVIOUS not in champion.tags and before and self._version(str(before)):
            self._tag(champion, {PREVIOUS: str(before)})
            champion = self._existing(champion.number)
        by, reason = (
            champion.tags.get(PROMOTED_BY, "unknown"),
            champion.tags.get(REASON, "moved outside this workspace"),
        )
        self.ledger.append(datetime.now(UTC), "observed", champion, before, by, reason)
        return champion

    def _champion_before(self, champion: Version) -> Version:
        seen = {champion.number}
        version: Version | None = champion
        while version and (number := int(version.tags.get(PREVIOUS, "0"))) and number not in seen:
            seen.add(number)
            version = self._version(str(number))
            if version and not version.rolled_back:
                return version
        raise InputError(
            f"{champion} has no champion before it that was not rolled back itself; it stays champion of "
            f"{self.model!r} at {self.connection.address}"
        )


class Ledger:
    """Every change of champion in this workspace, one JSON object a line, only ever appended to."""

    def __init__(self, path: Path, uri: str, model: str) -> None:
        self.path, self.uri, self.model = path, uri, model

    def moves(self) -> list[Move]:
        """All moves of this model at this address, oldest first."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        moves = []
        for line in lines:
            try:
                moves.append(Move.model_validate_json(line))
            except ValueError:  # half a line of a process that was killed; the move is found again by its alias
                continue
        return [move for move in moves if (move.uri, move.model) == (self.uri, self.model)]

    def last(self) -> Move | None:
        return next(reversed(self.moves()), None)

    def append(self, time: datetime, action: str, version: Version, previous: int, by: str, reason: str) -> None:
        """Add a line, flushed to disk before this returns."""
        move = Move.model_validate(
            {
                "time": time,
                "action": action,
                "uri": self.uri,
                "model": self.model,
                "version": version.number,
                "key": version.key,
                "previous": previous,
                "by": by,
                "reason": reason,
            }
        )
        broken = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write("\n" * broken + move.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())


def _of(version: "ModelVersion") -> Version:
    return Version(version.name, int(version.version), dict(version.tags))


def _tags_of(bundle: Artifact) -> dict[str, str]:
    tags = {
        KEY: bundle.key,
        RECORD_DIGEST: digest_file(bundle.folder / RECORD),
        "lacewing.config_digest": digest_json(bundle.record.identity.config)[:16],
        "lacewing.code": digest_json(bundle.record.identity.code)[:16],
    }
    if data_key := bundle.record.identity.inputs.get("prepared"):
        tags["lacewing.data_key"] = data_key
    if (figure := bundle.metrics.get("assessment.bits_per_byte")) is not None:
        tags["lacewing.bits_per_byte"] = f"{figure:.6f}"
    return tags


def _description(bundle: Artifact) -> str:
    """What the list of versions in MLflow says of this one."""
    named = {
        "parameters": "{:,.0f} parameters",
        "training.tokens": "{:,.0f} training tokens",
        "assessment.bits_per_byte": "{:.4f} bits per byte on held-out text",
    }
    return ", ".join(text.format(bundle.metrics[name]) for name, text in named.items() if name in bundle.metrics)


def _sound(artifact: Artifact, record_digest: str | None) -> bool:
    return digest_file(artifact.folder / RECORD) == record_digest and artifact.fault() is None


@contextmanager
def _sealed_files_of(bundle: Artifact) -> Iterator[Path]:
    """A folder with just the sealed files and the record, as links: what adapters wrote beside them stays here."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in (*bundle.record.files, RECORD):
            link = Path(scratch) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(bundle.folder / name)
        yield Path(scratch)


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return f"user {os.getuid()}"


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
