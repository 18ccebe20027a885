"""What a server that follows a registry knows of it, for people: in the log, in metrics, and at ``/v1/about``."""

from collections import Counter

from pydantic import BaseModel


class RegistryNote(BaseModel):
    """The registry as a client of the server sees it."""

    looked: float
    """When its state was heard of last, in seconds since 1970; 0: not yet."""
    fault: str
    """Why the registry could not be asked the last time; empty if it answered. Serving goes on in any case."""
    refused: dict[str, str]
    """Versions that should answer and are not used, each with the reason."""
    aborted: dict[str, str]
    """Versions that were taken off their trial, each with the reason."""


class RegistryState:
    """Written by whoever follows the registry, read by everybody."""

    def __init__(self) -> None:
        self.looked = 0.0
        self.fault = ""
        self.refused: dict[str, str] = {}
        self.aborted: dict[str, str] = {}
        self.refusals = 0
        """How often a version was refused."""
        self.aborts: Counter[str] = Counter()
        """How often a trial was ended, by the kind of its reason."""

    def note(self) -> RegistryNote:
        """As it is now."""
        return RegistryNote(
            looked=self.looked, fault=self.fault, refused=dict(self.refused), aborted=dict(self.aborted)
        )
