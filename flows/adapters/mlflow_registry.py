"""A registered model in MLflow: its versions, their tags and aliases, and the files of each.

A bundle's files are uploaded once, as an MLflow logged model that MLflow itself can load and serve; a version of the
registered model points at it. The digest of the bundle's record is kept with the version, so that a file altered in the
artifact store is noticed. Only the bundle is ever fetched from there: the code that lies beside it is for MLflow.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from components.core.artifact import RECORD, Artifact
from components.core.errors import ArtifactError, ServiceError
from components.core.identity import digest_file
from conf.services import TrackingConfig
from flows.adapters.mlflow_connection import Connection, limited
from flows.adapters.mlflow_flavor import BUNDLE
from flows.adapters.mlflow_logged_model import KEY, describe_model, link_version, logged_model
from flows.adapters.mlflow_runs import FlowTracker
from flows.adapters.mlflow_stage_run import identity_tags
from flows.adapters.model_card import CONFIG_DIGEST, model_card, version_card
from flows.adapters.tracking_record import TrackingRecord
from flows.workspace import find_artifact

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

RECORD_DIGEST = "lacewing.record_sha256"
# Where the bundle lies within the version's files; a version without this tag consists of nothing else.
PLACE = "lacewing.bundle_path"
# MLflow's registry on a database keeps the id in the source alone, where no search finds it.
MODEL_ID = "lacewing.model_id"
# By which the registered model is found among others.
KIND = {"task": "text-generation", "made_by": "lacewing"}


@dataclass(frozen=True)
class Version:
    """One version of the registered model."""

    model: str
    number: int
    tags: dict[str, str]
    registered: datetime

    @property
    def key(self) -> str:
        """Key of the bundle."""
        return self.tags.get(KEY, "")

    def __str__(self) -> str:
        return f"{self.model} version {self.number} (bundle {self.key[:16]})"


class RegisteredModel:
    """The registered model at one MLflow address. MLflow's own errors pass; ``Connection.explained`` explains them."""

    def __init__(self, cfg: TrackingConfig) -> None:
        self.cfg = cfg
        self.name = cfg.registered_model
        self.connection = Connection(cfg)
        self.folder = self.connection.workspace

    def version(self, reference: str) -> Version | None:
        """The version with this alias or number; ``None`` if there is none."""
        from mlflow.exceptions import MlflowException

        client = self.connection.client
        try:
            if reference.isdigit():
                return _version(client.get_model_version(self.name, reference))
            return _version(client.get_model_version_by_alias(self.name, reference))
        except MlflowException as error:
            # A missing alias is an "invalid parameter" to SQLite stores, a missing model or version "does not exist".
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or ("alias" in str(error) and "not found" in str(error)):
                return None
            raise

    def existing(self, number: int) -> Version:
        """The version of this number, which must exist, as it is now."""
        return _version(self.connection.client.get_model_version(self.name, str(number)))

    def versions(self, key: str = "") -> list[Version]:
        """All versions, or those of one bundle, oldest first."""
        query = f"name = '{self.name}'" + (f" and tags.`{KEY}` = '{key}'" if key else "")
        versions: list[Version] = []
        page = None
        while page is None or page.token:
            page = self.connection.client.search_model_versions(query, page_token=page.token if page else None)
            versions += map(_version, page)
        return sorted(versions, key=lambda version: version.number)

    def aliases(self) -> dict[int, list[str]]:
        """The aliases of every version that has any. MLflow's search leaves them out."""
        found: dict[int, list[str]] = {}
        for alias, number in self.connection.client.get_registered_model(self.name).aliases.items():
            found.setdefault(int(number), []).append(alias)
        return {number: sorted(names) for number, names in found.items()}

    def figures(self, version: Version) -> dict[str, float]:
        """The metrics of the version's bundle; none of a version from before there were logged models."""
        model_id = version.tags.get(MODEL_ID)
        if not model_id:
            return {}
        metrics = self.connection.client.get_logged_model(model_id).metrics or []
        return {metric.key: metric.value for metric in metrics}

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for name, value in tags.items():
            self.connection.client.set_model_version_tag(self.name, str(version.number), name, value)

    def remove_tag(self, version: Version, name: str) -> None:
        """Remove a tag of a version."""
        self.connection.client.delete_model_version_tag(self.name, str(version.number), name)

    def set_alias(self, alias: str, version: Version) -> None:
        """Let ``alias`` point at the version, in one step of MLflow's database."""
        self.connection.client.set_registered_model_alias(self.name, alias, str(version.number))

    def create(self, bundle: Artifact, tags: Mapping[str, str]) -> Version:
        """Upload the bundle as an MLflow model and make it a new version."""
        from mlflow.exceptions import MlflowException

        client = self.connection.client
        run_id = self._run_of(bundle)
        try:
            client.create_registered_model(self.name, tags=KIND, description=model_card(self.name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        model = logged_model(self.connection, bundle, run_id)
        with self.connection.as_default():
            version = client.create_model_version(
                self.name,
                source=f"models:/{model.model_id}",  # by which the version's page finds the logged model
                run_id=run_id,
                tags=limited({**_tags_of(bundle), MODEL_ID: model.model_id, **tags}),
                model_id=model.model_id,
            )
        # Another machine may have registered the same bundle meanwhile: then the older version stays.
        first = self.versions(bundle.key)[0]
        if first.number != int(version.version):
            client.delete_model_version(self.name, version.version)
            return first
        link_version(self.connection, model.model_id, self.name, int(version.version))
        return _version(version)

    def describe(self, version: Version, bundle: Artifact, tags: Mapping[str, str]) -> Version:
        """Write the version's description anew, with ``tags`` that are set before."""
        self.tag(version, limited(tags))
        card = version_card(self.name, version.number, bundle, {**version.tags, **tags})
        if model_id := version.tags.get(MODEL_ID):
            describe_model(self.connection, model_id, card)
        return _version(self.connection.client.update_model_version(self.name, str(version.number), card))

    def bundle(self, version: Version) -> Artifact:
        """The version's files, verified: where they were made if they are still there and intact, else fetched."""
        expected = version.tags.get(RECORD_DIGEST)
        made = find_artifact(version.key)
        if made and _sound(made, expected):
            return made
        folder = self.folder / "models" / version.key[:16]
        with FileLock(self.folder / ".models.lock"):
            if not ((folder / RECORD).exists() and _sound(Artifact.open(folder), expected)):
                self._fetch(version, folder)
        return Artifact.open(folder)

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

    def _fetch(self, version: Version, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
            with self.connection.explained():
                location = self.connection.client.get_model_version_download_uri(self.name, str(version.number))
                self._require_reachable(version, location)
                place = f"{location}/{version.tags.get(PLACE, '')}".rstrip("/")
                fetched = Artifact.open(self.connection.download(place, Path(scratch)))
            if digest_file(fetched.folder / RECORD) != version.tags.get(RECORD_DIGEST):
                raise ArtifactError(
                    f"{version} was altered in the artifact store: its record is not the registered one"
                )
            if fault := fetched.fault():
                raise ArtifactError(f"{version} was altered in the artifact store: {fault}")
            shutil.rmtree(folder, ignore_errors=True)
            fetched.folder.rename(folder)

    def _require_reachable(self, version: Version, location: str) -> None:
        """Refuse a folder of another machine: a bare database knows its path, and has no way to its files."""
        path = Path(unquote(urlsplit(location).path))
        if urlsplit(location).scheme in ("", "file") and not path.exists():
            raise ServiceError(
                f"the files of {version} are not on this machine: MLflow at {self.connection.address} says that they "
                f"lie in {path}. Machines that share models need an MLflow server that keeps the files for all of them "
                "(tracking.uri=http://..., docs/guides/infra.md), or this folder mounted at the same path."
            )


def record_digest(version: Version) -> str:
    """SHA-256 of the record of the version's bundle, as it was registered; empty for one that is not ours."""
    return version.tags.get(RECORD_DIGEST, "")


def _version(version: "ModelVersion") -> Version:
    registered = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return Version(version.name, int(version.version), dict(version.tags), registered)


def _tags_of(bundle: Artifact) -> dict[str, str]:
    """Tags to find a version by: the parts of the bundle's key, and the facts that the bundle names."""
    parts = identity_tags(bundle.record.identity)
    del parts[CONFIG_DIGEST]  # of the bundle stage alone; a version has that of the whole configuration of its run
    return {
        KEY: bundle.key,
        RECORD_DIGEST: digest_file(bundle.folder / RECORD),
        PLACE: BUNDLE,
        **parts,
        **{f"lacewing.{name}": text for name, text in bundle.details.get("tags", {}).items()},
    }


def _sound(artifact: Artifact, record_digest: str | None) -> bool:
    return digest_file(artifact.folder / RECORD) == record_digest and artifact.fault() is None
