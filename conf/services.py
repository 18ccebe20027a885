"""Settings of the services around the stages. None of them is part of a stage's key."""

import os
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

# Environment variables with the addresses that all commands of a machine take which name no others.
TRACKING_URI, REMOTE = "LACEWING_TRACKING_URI", "LACEWING_REMOTE"
TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")


class TrackingConfig(BaseModel):
    """Where MLflow keeps runs and registered models."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    uri: str = Field(default_factory=lambda: os.environ.get(TRACKING_URI, ""))
    """Address of MLflow: ``http(s)://host:port``, ``sqlite:///file`` or a database URL; empty: in the workspace. If
    it is not set, that of LACEWING_TRACKING_URI."""
    experiment: str = "lacewing"
    """Name of the MLflow experiment that holds the runs."""
    registered_model: str = "lacewing"
    """Name of the registered model whose versions are the bundles."""
    timeout_seconds: PositiveInt = 10
    """How long one request to MLflow may stay without an answer before the address counts as unreachable."""

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, uri: str) -> str:
        if uri and urlsplit(uri).scheme.partition("+")[0] not in TRACKING_SCHEMES:
            allowed = ", ".join(f"{scheme}://" for scheme in TRACKING_SCHEMES)
            raise ValueError(
                f"{uri!r} is not an address of MLflow; allowed are {allowed} or an empty string for SQLite "
                "in the workspace (MLflow no longer keeps runs in plain folders)"
            )
        return uri


class VersioningConfig(BaseModel):
    """Where DVC keeps the bytes of sources and shards."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    remote: str = Field(default_factory=lambda: os.environ.get(REMOTE, ""))
    """DVC remote: a folder or an ``s3://bucket/path`` (needs the ``s3`` extra); empty: a folder in the workspace. If
    it is not set, that of LACEWING_REMOTE."""
    endpoint_url: str = ""
    """Endpoint of an S3-compatible service; empty means the provider's own."""
    region: str = ""
    """Region of the S3 bucket; empty means the provider's default."""
    push: bool = True
    """Push new versions to the remote at the end of the stage."""
