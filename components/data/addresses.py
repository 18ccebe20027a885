"""Which machines a download may reach.

A person at the command line may download from anywhere. A run that came through a web form must not be led to what only
this machine can see: the services of a private network, the cloud's metadata, its own ports. The name of a host says
little (any name may stand for 127.0.0.1, and a redirect leads anywhere), so every hop is resolved, the addresses are
checked, and the connection goes to a checked address: nothing is looked up a second time.
"""

import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence

import httpx

from components.core.errors import InputError

# Environment variable. If it is set, private addresses are refused but for these hosts: ``host`` or ``host:port``,
# separated by commas.
PRIVATE_HOSTS = "LACEWING_PRIVATE_HOSTS"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def download_client(timeout_seconds: float) -> httpx.Client:
    """A client that follows redirects, as far as ``PRIVATE_HOSTS`` allows."""
    given = os.environ.get(PRIVATE_HOSTS)
    if given is None:
        return httpx.Client(follow_redirects=True, timeout=timeout_seconds)
    hosts = [host for host in given.split(",") if host]
    # Neither proxies nor ~/.netrc: what the environment holds shall not decide where a checked request goes.
    transport = _CheckedTransport(hosts)
    return httpx.Client(follow_redirects=True, timeout=timeout_seconds, transport=transport, trust_env=False)


def is_listed(host: str, port: int | None, hosts: Sequence[str]) -> bool:
    """Whether ``hosts`` holds the host, or the host with this port."""
    shown = f"[{host}]" if ":" in host else host
    return bool({host.lower(), shown.lower(), f"{shown}:{port}".lower()} & {each.lower() for each in hosts})


def is_public(text: str) -> bool:
    """Whether an IP address belongs to the public internet, and so does what it stands for within IPv6."""
    address = _reached(ipaddress.ip_address(text))
    return address.is_global and not address.is_multicast


class _CheckedTransport(httpx.BaseTransport):
    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._connections = httpx.HTTPTransport(trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        failure: httpx.ConnectError | None = None
        for address in _checked(request.url, self._hosts):
            try:
                return self._connections.handle_request(_sent_to(address, request))
            except httpx.ConnectError as error:
                failure = error
        raise failure or httpx.ConnectError(f"{request.url.host} has no address")

    def close(self) -> None:
        self._connections.close()


def _checked(url: httpx.URL, hosts: Sequence[str]) -> Iterator[str]:
    """Addresses of the host in ``url``, the resolver's favourite first; raises ``InputError`` if one is private."""
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    try:
        found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise httpx.ConnectError(f"{url.host}: {error}") from error
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    private = [address for address in addresses if not is_public(address)]
    if private and not is_listed(url.host, port, hosts):
        more = f", and from {', '.join(hosts)}" if hosts else ""
        raise InputError(
            f"{url} is at {private[0]}, which is no public address. A run from the form may download from public "
            f"addresses{more}. Name the host in form.hosts of `lacewing up`, or start the run on the command line"
        )
    yield from addresses


def _sent_to(address: str, request: httpx.Request) -> httpx.Request:
    """The same request, but connected to ``address``; certificate and ``Host`` are those of the name."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,  # holds Host, as the client wrote it
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )


def _reached(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it is one of those."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
