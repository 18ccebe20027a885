"""Under which names the server may be addressed.

A web page can point a name of its own at 127.0.0.1 and then read a server there as if it were the page's own (DNS
rebinding). Its requests carry that name in the header ``Host``, so a server that knows its own names can refuse them.
"""

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

LOCALHOST = "localhost"
ANY_HOST = "*"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    address = _address(host)
    return address.is_loopback if address is not None else host == LOCALHOST


class AllowedHosts:
    """Loopback, the address that the server listens on, and the names from its configuration."""

    def __init__(self, host: str, more: Sequence[str] = ()) -> None:
        """
        Arguments:
            host: the address that the server listens on. If it stands for all addresses of the machine, every IP
                address is allowed (rebinding needs a name), and the machine's name.
            more: further names; ``*`` allows all.
        """
        listening = _address(host)
        self._all_addresses = listening is not None and listening.is_unspecified
        own = {LOCALHOST, host, *([socket.gethostname()] if self._all_addresses else [])}
        self._names = {name.lower().rstrip(".") for name in (*own, *more)}
        self._any = ANY_HOST in more

    def allows(self, header: bytes | None) -> bool:
        """Whether a request with this ``Host`` is meant for the server. Browsers always send one."""
        if self._any or header is None:
            return True
        try:
            name = (urlsplit(f"//{header.decode('ascii')}").hostname or "").rstrip(".")
        except ValueError:  # no ASCII, or brackets that hold no address
            return False
        if name in self._names or name.endswith(f".{LOCALHOST}"):
            return True
        address = _address(name)
        return address is not None and (self._all_addresses or address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
