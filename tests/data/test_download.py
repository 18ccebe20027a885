import hashlib
from pathlib import Path

import pytest

from components.core.errors import InputError, ServiceError
from components.data.download import ATTEMPTS, download, fingerprint_of_url, state_files
from tests.data.site import CONTENT, Site


def fetch(site: Site, path: Path) -> list[float]:
    told: list[float] = []
    download(site.address, path, lambda fraction, message: told.append(fraction))
    return told


def test_a_file_arrives_whole_with_progress(site: Site, tmp_path: Path) -> None:
    told = fetch(site, tmp_path / "text.jsonl")
    assert (tmp_path / "text.jsonl").read_bytes() == CONTENT
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_broken_download_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.bytes_per_answer = 900_000
    fetch(site, tmp_path / "text.jsonl")
    assert site.ranges == [None, "bytes=900000-", "bytes=1800000-"]
    assert (tmp_path / "text.jsonl").read_bytes() == CONTENT


def test_a_download_that_keeps_breaking_says_so_and_a_later_run_goes_on(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    site.bytes_per_answer = 1000
    with pytest.raises(ServiceError, match=rf"broke off {ATTEMPTS} times .*run the same command again"):
        fetch(site, path)
    assert not path.exists()
    site.bytes_per_answer = None
    fetch(site, path)
    assert site.ranges[-1] == f"bytes={1000 * ATTEMPTS}-"
    assert path.read_bytes() == CONTENT


def test_a_file_changed_on_the_server_is_not_mixed_with_the_old_one(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    site.bytes_per_answer = 1000
    with pytest.raises(ServiceError):
        fetch(site, path)
    site.bytes_per_answer, site.etag, site.content = None, '"v2"', CONTENT[::-1]
    fetch(site, path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_partial_file_without_a_validator_is_begun_again(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    state_files(path)[0].write_bytes(b"garbage of another day")
    fetch(site, path)
    assert site.ranges == [None]
    assert path.read_bytes() == CONTENT


def test_a_run_killed_before_the_renaming_is_made_good(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    fetch(site, path)
    path.rename(state_files(path)[0])
    fetch(site, path)
    assert path.read_bytes() == CONTENT


def test_a_complete_file_is_not_fetched_again_until_the_server_has_another(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    fetch(site, path)
    assert fetch(site, path) == []
    site.etag, site.content = '"v2"', b"new"
    fetch(site, path)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("etag", "modified", "expected"),
    [
        ('"v1"', "Sat, 21 Nov 2026 10:00:00 GMT", '"v1"'),
        ('W/"v1"', "Sat, 21 Nov 2026 10:00:00 GMT", "Sat, 21 Nov 2026 10:00:00 GMT"),
        (None, None, "sha256:" + hashlib.sha256(CONTENT).hexdigest()),
    ],
)
def test_an_address_is_known_by_the_best_the_server_tells(
    site: Site, etag: str | None, modified: str | None, expected: str
) -> None:
    site.etag, site.modified = etag, modified
    assert fingerprint_of_url(site.address) == expected


def test_an_address_that_is_not_there(site: Site, tmp_path: Path) -> None:
    site.status = 404
    for ask in (lambda: fingerprint_of_url(site.address), lambda: fetch(site, tmp_path / "a.jsonl")):
        with pytest.raises(InputError, match=r"text\.jsonl cannot be read: the server answers 404"):
            ask()


def test_a_server_in_trouble_is_not_the_callers_mistake(site: Site) -> None:
    site.status = 503
    with pytest.raises(ServiceError, match="cannot be read now: the server answers 503"):
        fingerprint_of_url(site.address)


def test_an_empty_body(site: Site, tmp_path: Path) -> None:
    site.content = b""
    for ask in (lambda: fingerprint_of_url(site.address), lambda: fetch(site, tmp_path / "a.jsonl")):
        with pytest.raises(InputError, match="is empty"):
            ask()


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"no server answers at http://127\.0\.0\.1:9/a\.jsonl"):
        download("http://127.0.0.1:9/a.jsonl", tmp_path / "a.jsonl", lambda fraction, message: None)


def test_an_address_that_is_none() -> None:
    with pytest.raises(InputError, match="is not an address"):
        fingerprint_of_url("http://")
