"""Who may use the server: bearer keys with names and limits.

A file of keys holds their digests only, so whoever reads it cannot use them:

    {"keys": [{"name": "search", "sha256": "9f86d0...", "requests_per_minute": 60, "tokens_per_minute": 20000}]}

Limits are buckets that fill evenly and hold a minute's worth. A request takes one from that of requests at its
beginning. How many tokens it takes is known at its end only, so that bucket may fall below empty; the next request then
waits until it has filled again.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from components.core.errors import InputError
from components.core.records import first_fault

_MINUTE = 60.0
DEFAULT_NAME = "default"


class KeyRecord(BaseModel):
    """One key of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")
    """Whose it is; shown in metrics."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the key: ``printf %s KEY | sha256sum``."""
    requests_per_minute: PositiveInt | None = None
    """None: as many as come."""
    tokens_per_minute: PositiveInt | None = None
    """Of prompts and answers together; None: as many as come."""


class _KeyFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: list[KeyRecord] = Field(min_length=1)

    @field_validator("keys")
    @classmethod
    def _told_apart(cls, keys: list[KeyRecord]) -> list[KeyRecord]:
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in keys]
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise ValueError(f"the {what} {twice} occurs twice")
        return keys


class Bucket:
    """A limit for each minute. Not for several threads at once."""

    def __init__(self, per_minute: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self._capacity = per_minute
        self._now = now
        self._left = float(per_minute or 0)
        self._filled = now()

    def seconds_until(self, amount: float) -> float:
        """How long until the bucket holds ``amount``; 0 if it does."""
        if self._capacity is None:
            return 0.0
        now = self._now()
        self._left = min(self._capacity, self._left + (now - self._filled) * self._capacity / _MINUTE)
        self._filled = now
        return max(0.0, amount - self._left) * _MINUTE / self._capacity

    def take(self, amount: float) -> None:
        """Take ``amount`` out, also what is not there."""
        self._left -= amount


class Client:
    """A key in use: its limits, and what is left of them."""

    def __init__(self, record: KeyRecord, now: Callable[[], float] = time.monotonic) -> None:
        self.name = record.name
        self.digest = record.sha256
        self._requests, self._tokens = Bucket(record.requests_per_minute, now), Bucket(record.tokens_per_minute, now)

    def admit(self) -> tuple[str, float] | None:
        """Count a request; or, if it comes too early, which limit it meets and how many seconds it must wait."""
        limits = (("requests_per_minute", self._requests), ("tokens_per_minute", self._tokens))
        for name, bucket in limits:
            if wait := bucket.seconds_until(1):
                return name, wait
        self._requests.take(1)
        return None

    def charge(self, tokens: int) -> None:
        """Count the tokens of an answer."""
        self._tokens.take(tokens)


class Clients:
    """Everybody who has a key; nobody: the server asks for none."""

    def __init__(self, clients: Sequence[Client] = ()) -> None:
        self._clients = list(clients)

    @classmethod
    def of(cls, file: str, key: str) -> "Clients":
        """The keys of ``file`` (none if empty), and the one ``key`` of the environment, which has no limits.

        Raises ``InputError`` for a file that cannot be read as one of keys.
        """
        records = read_keys(Path(file)) if file else []
        if key:
            records.append(KeyRecord(name=DEFAULT_NAME, sha256=hashlib.sha256(key.encode()).hexdigest()))
        return cls([Client(record) for record in records])

    def __len__(self) -> int:
        return len(self._clients)

    def holder(self, authorization: bytes) -> Client | None:
        """Whose key the header ``Authorization`` carries; ``None`` if nobody's.

        Takes the same time whichever it is, and however much of it is right.
        """
        scheme, _, key = authorization.partition(b" ")
        given = hashlib.sha256(key).hexdigest()
        matching = [client for client in self._clients if hmac.compare_digest(given, client.digest)]
        return matching[0] if matching and scheme.lower() == b"bearer" else None


def read_keys(path: Path) -> list[KeyRecord]:
    """The keys of a file; raises ``InputError`` that names what is wrong with it."""
    try:
        return list(_KeyFile.model_validate_json(path.read_bytes()).keys)
    except OSError as error:
        raise InputError(
            f"keys={path} cannot be read ({error.strerror}): name a file of keys, or leave keys out"
        ) from error
    except ValidationError as error:
        raise InputError(
            f"keys={path} is no file of keys ({first_fault(error)}). It looks like "
            '{"keys": [{"name": "search", "sha256": "DIGEST", "requests_per_minute": 60, "tokens_per_minute": 9000}]}; '
            "DIGEST is what `printf %s KEY | sha256sum` prints"
        ) from error
