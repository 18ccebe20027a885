"""Downloads from http(s) addresses: identified by their validators, resumed after an interruption, never partial."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from components.core.atomic import full_disk_explained, write_json
from components.core.errors import InputError, ServiceError
from components.data.addresses import download_client

ATTEMPTS = 4
TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 20


def fingerprint_of_url(url: str) -> str:
    """ETag of ``url``, else its modification date and size, else the SHA-256 of its body (which is then read).

    Raises ``InputError`` if the server refuses the address or the body is empty, ``ServiceError`` if no server answers.
    """
    with _answer(url) as response:
        if response.headers.get("content-length") == "0":
            raise InputError(f"source {url} is empty (0 bytes)")
        if validator := _validator(response):
            return validator
        return "sha256:" + _digest(response.iter_bytes(_CHUNK_BYTES))


def download(url: str, path: Path, report: Callable[[float, str], None]) -> None:
    """Fetch ``url`` to ``path``, which appears only when it is complete.

    An interrupted download leaves ``.NAME.part`` and the server's validator beside it; the next call continues from
    there if the file on the server is still the same, and skips a file that is already complete. Broken connections are
    tried ``ATTEMPTS`` times. Raises ``InputError``, ``ServiceError`` or ``DiskFullError``.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _fetch(url, path, report)
        except httpx.TransportError as error:
            if attempt == ATTEMPTS:
                raise ServiceError(
                    f"the download of {url} broke off {ATTEMPTS} times ({error}). What has arrived is kept: "
                    "run the same command again to go on from there."
                ) from error


def state_files(path: Path) -> tuple[Path, Path]:
    """The partial file and the validator that ``download`` keeps beside ``path``."""
    return path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.validator")


def _fetch(url: str, path: Path, report: Callable[[float, str], None]) -> None:
    part, memory = state_files(path)
    remembered = json.loads(memory.read_text()) if memory.exists() else {}
    known = remembered["validator"] if remembered.get("url") == url else ""
    have = part.stat().st_size if known and part.exists() else 0
    # The server sends the rest if the file is still the one we began, and all of it otherwise.
    with _answer(url, {"Range": f"bytes={have}-", "If-Range": known} if have else {}) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # the file is complete: the process ended between the last byte and the renaming
            raise httpx.RemoteProtocolError(f"the server has nothing after byte {have}")
        validator = _validator(response)
        if path.exists() and known and known == validator:
            return
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        arrived = have if resumed else 0
        expected = arrived + int(response.headers.get("content-length", 0))
        write_json(memory, {"url": url, "validator": validator})
        with full_disk_explained(part), part.open("ab" if resumed else "wb") as file:
            # Raw bytes: a .gz file must not be unpacked because the server calls it an encoding.
            # In parts as they arrive: bytes that wait for a larger part would be lost with the connection.
            for chunk in response.iter_raw():
                file.write(chunk)
                arrived += len(chunk)
                report(arrived / expected if expected else 0.0, f"downloading {url}")
    if expected and arrived < expected:
        raise httpx.RemoteProtocolError(f"{arrived} of {expected} bytes arrived")
    if not arrived:
        raise InputError(f"source {url} is empty (0 bytes)")
    part.replace(path)


@contextmanager
def _answer(url: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
    request = {"Accept-Encoding": "identity", **(headers or {})}
    try:
        with download_client(TIMEOUT_SECONDS) as client, client.stream("GET", url, headers=request) as response:
            if response.is_client_error and response.status_code != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise InputError(f"source {url} cannot be read: the server answers {_status(response)}")
            if response.is_server_error:
                raise ServiceError(f"source {url} cannot be read now: the server answers {_status(response)}")
            yield response
    except httpx.ConnectError as error:
        raise ServiceError(f"no server answers at {url} ({error}); check the address and the network") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise InputError(f"source {url} is not an address: {error}") from error


def _validator(response: httpx.Response) -> str:
    """A strong ETag or the modification date, as ``If-Range`` takes them; empty if the server gives neither."""
    etag: str = response.headers.get("etag", "")
    if etag and not etag.startswith("W/"):
        return etag
    modified: str = response.headers.get("last-modified", "")
    return modified


def _status(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}"


def _digest(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
