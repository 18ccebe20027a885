"""Downloads of a run from the form reach public addresses only, hop by hop, whatever a name or a redirect says."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import InputError, ServiceError
from components.data.addresses import PRIVATE_HOSTS, is_listed, is_public
from components.data.download import download, fingerprint_of_url
from tests.data.site import CONTENT, Site


@pytest.fixture
def redirect(site: Site) -> Iterator[str]:
    """A second server, which sends everybody to the site."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", site.address)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/text.jsonl"
    server.shutdown()
    server.server_close()
    thread.join()


def host_of(address: str) -> str:
    return address.split("/")[2]


PRIVATE = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"]
PRIVATE += ["100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"]
PRIVATE += ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_known_in_every_disguise(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_a_host_is_listed_with_or_without_its_port() -> None:
    assert is_listed("Data.Example.org", 443, ["data.example.org"])
    assert is_listed("data.example.org", 8080, ["data.example.org:8080"])
    assert not is_listed("data.example.org", 80, ["data.example.org:8080"])
    assert not is_listed("evil-data.example.org", 8080, ["data.example.org:8080"])
    assert is_listed("::1", 80, ["[::1]:80"])


def test_the_command_line_downloads_from_anywhere(redirect: str, tmp_path: Path) -> None:
    download(redirect, tmp_path / "text.jsonl", lambda fraction, message: None)
    assert (tmp_path / "text.jsonl").read_bytes() == CONTENT


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_private_address_is_refused_before_anything_is_asked(
    site: Site, host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(PRIVATE_HOSTS, "")
    address = site.address.replace("127.0.0.1", host)
    for ask in (lambda: fingerprint_of_url(address), lambda: download(address, tmp_path / "a", lambda *_: None)):
        with pytest.raises(InputError, match=r"no public address.*form\.hosts"):
            ask()
    assert site.ranges == []


def test_a_redirect_to_a_private_address_is_refused(
    site: Site, redirect: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(PRIVATE_HOSTS, host_of(redirect))
    with pytest.raises(InputError) as caught:
        download(redirect, tmp_path / "text.jsonl", lambda fraction, message: None)
    assert site.address in str(caught.value)
    assert site.ranges == []
    monkeypatch.setenv(PRIVATE_HOSTS, f"{host_of(redirect)},{host_of(site.address)}")
    download(redirect, tmp_path / "text.jsonl", lambda fraction, message: None)
    assert (tmp_path / "text.jsonl").read_bytes() == CONTENT


def test_a_name_is_resolved_once_and_the_checked_address_is_the_one_that_is_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers differently the second time (DNS rebinding) leads nowhere else."""
    real, asked = socket.getaddrinfo, []

    def resolver(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if host == "data.test" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    monkeypatch.setenv(PRIVATE_HOSTS, "data.test")
    assert fingerprint_of_url(site.address.replace("127.0.0.1", "data.test")) == site.etag
    assert asked.count("data.test") == 1


def test_a_name_that_nobody_knows_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRIVATE_HOSTS, "")
    with pytest.raises(ServiceError, match=r"no server answers at http://nowhere\.invalid"):
        fingerprint_of_url("http://nowhere.invalid/a.txt")
