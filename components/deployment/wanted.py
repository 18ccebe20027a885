"""What a registry wants a server to answer with, as one line of JSON.

Whoever can ask the registry says it, again and again; the server compares it with what it has loaded. So nothing is
lost if a line is, and the server imports no client of any registry. Light: no torch.
"""

from pydantic import BaseModel, ConfigDict


class Target(BaseModel):
    """A version of the registered model."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Model and number, for example ``lacewing/7``."""
    digest: str
    """SHA-256 of the bundle's record, as it was when the bundle was registered."""
    folder: str = ""
    """The bundle on this machine; empty if it could not be fetched."""
    page: str = ""
    """Where a person can look at the version, http or https; empty if there is no such page."""
    fault: str = ""
    """Why the bundle could not be fetched, or must not be used."""


class Wanted(BaseModel):
    """The state of the registry at one moment."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    served: Target | None = None
    """The version that should answer; ``None`` if the alias is gone."""
    canary: Target | None = None
    """The version that should answer some of the requests; ``None`` if there is none."""
    fault: str = ""
    """Why the registry could not be asked; then nothing else is known."""
