"""Connections to the real server process: slow clients, foreign names, and the end of the server."""

import json
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from components.model.bundle import Bundle
from tests.deployment.conftest import CONTEXT_LENGTH
from tests.deployment.process import PATIENCE_SECONDS, messages, started, url_of

CLIENT_SECONDS = 1
CUT_SECONDS = 15.0  # far more than the server needs, far less than a connection without a limit would stay open
Address = tuple[str, int]


def _address(process: "subprocess.Popen[str]") -> Address:
    url = urlsplit(url_of(process))
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


@pytest.fixture(scope="module")
def address(bundle: Bundle) -> Iterator[Address]:
    """A server that is patient with a client for a second."""
    options = ("--port", "0", "--client-timeout-seconds", str(CLIENT_SECONDS), "--allowed-hosts", "a.example,b.example")
    with started(bundle.folder, *options) as process:
        yield _address(process)


def _post(body: bytes, length: int | None = None, host: str = "localhost") -> bytes:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def _received(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection; fails if it does not."""
    connection.settimeout(CUT_SECONDS)
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"])
def test_headers_that_do_not_come_end_the_connection(address: Address, sent: bytes) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        assert _received(connection) == b""


def test_headers_that_come_drop_by_drop_end_the_connection(address: Address) -> None:
    with socket.create_connection(address) as connection:
        deadline = time.monotonic() + CUT_SECONDS
        try:
            while time.monotonic() < deadline:
                connection.sendall(b"X")
                time.sleep(0.1)
        except OSError:  # a broken pipe or a reset connection
            return
    pytest.fail(f"the connection was still open after {CUT_SECONDS} seconds")


def test_a_body_that_does_not_come_is_refused_in_words(address: Address) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(_post(b'{"prompt": "The', length=1000))
        answer = _received(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["message"] == "the body did not arrive within 1 seconds"
    assert error["type"] == "invalid_request_error"


def test_a_refused_body_is_not_awaited_for_ever(address: Address) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(_post(b"{", length=10**8))
        assert _received(connection).startswith(b"HTTP/1.1 413 ")


def test_an_answer_that_nobody_reads_ends_the_connection(address: Address) -> None:
    prompts = [[id] * (CONTEXT_LENGTH - 2) for id in (10, 11)]  # megabytes of scores, more than the kernel buffers
    body = json.dumps({"prompt": prompts, "max_tokens": 1, "logprobs": 20, "echo": True}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.sendall(_post(body))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _open_connections(address, connection.getsockname()):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def _open_connections(server: Address, client: Address) -> bool:
    """Whether the server still holds its end; from the kernel's table, since reading would change what is tested."""
    own, other = (f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}" for host, port in (server, client))
    with open("/proc/net/tcp") as table:  # noqa: PTH123 - no file
        states = [line.split()[3] for line in table if line.split()[1:3] == [own, other]]
    return states == ["01"]  # established


@pytest.mark.parametrize(("host", "status"), [("a.example:80", 200), ("b.example", 200), ("evil.example", 403)])
def test_only_known_names_are_answered(address: Address, host: str, status: int) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = _received(connection)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    if status == 403:
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error["code"] == "host_not_allowed"
        assert "not addressed as 'evil.example'" in error["message"]
        assert "allowed_hosts=[NAME]" in error["message"]


def test_a_server_that_stops_ends_every_stream_with_an_error_and_itself_in_time(bundle: Bundle) -> None:
    streams, seconds = 70, 2
    request = _post(json.dumps({"prompt": "The", "max_tokens": 4000, "temperature": 0, "stream": True}).encode())

    def end_of(connection: socket.socket) -> str:
        answer = _received(connection)
        last = answer.rpartition(b"data: ")[2]
        if last.startswith(b'{"error":{"message":"the server is shutting down"') and last.endswith(b"0\r\n\r\n"):
            return "error"
        return "finished" if last.startswith(b"[DONE]") else f"cut: {answer[-100:]!r}"

    with (
        started(bundle.folder, "--port", "0", "--shutdown-seconds", str(seconds)) as process,
        ThreadPoolExecutor(streams) as threads,
    ):
        address = _address(process)
        connections = [socket.create_connection(address) for _ in range(streams)]
        for connection in connections:
            connection.sendall(request)
        ends = [threads.submit(end_of, connection) for connection in connections]
        connections[0].recv(1)  # the first answer has begun
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        took = time.monotonic() - began
        counts = Counter(end.result() for end in ends)
        for connection in connections:
            connection.close()
    assert set(counts) <= {"error", "finished"}, counts
    assert counts["error"] > streams // 2
    assert (process.returncode, messages(errors)) == (0, [])
    assert took < seconds + 2.5, f"the server took {took:.1f} s to end, {seconds} were allowed"
