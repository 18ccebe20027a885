"""Loopback ports: is one free, and does anything answer there?"""

import ipaddress
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from components.core.errors import ServiceError


def ensure_free(host: str, port: int, key: str) -> None:
    """Raise ``ServiceError`` if ``port`` is taken; ``key`` is the setting that chooses another one."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"port {port} on {host} cannot be used ({error.strerror}): stop what listens there, "
                f"or choose another with {key}={port + 1}"
            ) from error


def is_loopback(host: str) -> bool:
    """Whether what listens on ``host`` can be reached from this machine only."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def answers(url: str, timeout_seconds: float = 2.0) -> bool:
    """Whether a GET of ``url`` succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def wait_until_answers(url: str, timeout_seconds: float, alive: Callable[[], bool] = lambda: True) -> bool:
    """Poll ``url`` until it answers; ``False`` on time-out, or as soon as ``alive`` (a callable) says no."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if not alive():
            return False
        if answers(url):
            return True
        time.sleep(0.1)
    return False
