"""Put on PYTHONPATH, this writes every address that any Python process of a run asks for or connects to.

One line a call: process id, event, host, command. The log is named by LACEWING_SOCKET_LOG.
"""

import os
import sys

_LOG = os.environ.get("LACEWING_SOCKET_LOG")


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        return
    address = arguments[0] if event in ("socket.getaddrinfo", "socket.gethostbyname") else arguments[1]
    host = address[0] if isinstance(address, tuple) else address
    if isinstance(host, bytes | bytearray):
        host = host.decode(errors="replace")
    line = f"{os.getpid()}\t{event}\t{host}\t{' '.join(sys.orig_argv)[:300]!r}\n"
    descriptor = os.open(str(_LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line.encode())
    os.close(descriptor)


if _LOG:
    descriptor = os.open(_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, f"{os.getpid()}\tstart\t-\t{' '.join(sys.orig_argv)[:300]!r}\n".encode())
    os.close(descriptor)
    sys.addaudithook(_watch)
