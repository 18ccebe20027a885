"""Names under which the server may be addressed."""

import socket

import pytest

from components.deployment.hosts import AllowedHosts

LOOPBACK = [b"localhost", b"LOCALHOST:8000", b"localhost.", b"model.localhost:8000", b"127.0.0.1:8000", b"[::1]:8000"]
FOREIGN = [
    b"evil.example",
    b"evil.example:8000",
    b"127.0.0.1.evil.example",
    b"localhost.evil.example",
    b"evil.example@127.0.0.1.evil.example",
    b"[::1",
    b"",
    b"\xff",
]


@pytest.mark.parametrize("header", LOOPBACK)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "192.0.2.7"])
def test_loopback_is_always_allowed(host: str, header: bytes) -> None:
    assert AllowedHosts(host).allows(header)


@pytest.mark.parametrize("header", FOREIGN)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_name_of_somebody_else_is_refused(host: str, header: bytes) -> None:
    assert not AllowedHosts(host).allows(header)


def test_a_server_is_known_by_the_address_that_it_listens_on() -> None:
    assert AllowedHosts("model.example").allows(b"Model.Example:8000")
    assert AllowedHosts("192.0.2.7").allows(b"192.0.2.7")
    assert not AllowedHosts("127.0.0.1").allows(b"192.0.2.7")


def test_a_server_on_all_addresses_is_known_by_each_of_them_and_by_the_machines_name() -> None:
    hosts = AllowedHosts("0.0.0.0")
    assert hosts.allows(b"192.0.2.7:8000")
    assert hosts.allows(socket.gethostname().encode())


def test_the_configuration_adds_names_or_allows_all() -> None:
    assert AllowedHosts("127.0.0.1", ["model.example"]).allows(b"model.example")
    assert not AllowedHosts("127.0.0.1", ["model.example"]).allows(b"other.example")
    assert AllowedHosts("127.0.0.1", ["*"]).allows(b"other.example")


def test_a_request_without_a_host_comes_from_no_browser() -> None:
    assert AllowedHosts("127.0.0.1").allows(None)
