"""What the page says about the served model beside its figures: where it comes from, and what to ask it."""

import json
from dataclasses import dataclass
from pathlib import Path

from components.core.artifact import RECORD
from components.core.errors import ArtifactError
from components.core.identity import digest_file
from components.model.bundle import Bundle


@dataclass(frozen=True)
class Origin:
    """Where the served model comes from."""

    key: str = ""
    """Key of its bundle; empty for a folder that is no artifact."""
    version: str = ""
    """Its version in the registry, for example ``lacewing/7``; empty if it was served from a folder."""
    address: str = ""
    """Page of that version, http or https; empty if there is none."""
    prompts: tuple[str, ...] = ()
    """Texts to try, from the assessment."""
    digest: str = ""
    """SHA-256 of the bundle's record; empty for a folder that is no artifact."""

    @classmethod
    def of(cls, folder: Path, version: str = "", address: str = "") -> "Origin":
        """Of the bundle in ``folder``; raises ``ArtifactError`` if its prompts cannot be read."""
        sealed = (folder / RECORD).is_file()
        key, digest = (Bundle.open(folder).key, digest_file(folder / RECORD)) if sealed else ("", "")
        return cls(key, version, address, _prompts(folder / Bundle.PROMPTS), digest)


def _prompts(path: Path) -> tuple[str, ...]:
    if not path.is_file():  # a plain model, or a bundle from before there were any
        return ()
    try:
        return tuple(str(prompt) for prompt in json.loads(path.read_text()))
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: {error}. Download the bundle again, or run the flow again.") from error
