"""A real server on loopback with one file, which can be told to break off, to resume, and to change its file."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 10_000


@dataclass
class Site:
    """What the server holds, how it behaves, and what it was asked."""

    address: str
    content: bytes = CONTENT
    etag: str | None = '"v1"'
    modified: str | None = None
    status: int = 200
    bytes_per_answer: int | None = None
    """Break off after so many bytes."""
    ranges: list[str | None] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            here.ranges.append(asked)
            if here.status != 200:
                self.send_error(here.status)
                return
            start = 0
            if asked and self.headers.get("If-Range") in (here.etag, here.modified):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(here.content) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(here.content) - start))
            if here.etag:
                self.send_header("ETag", here.etag)
            if here.modified:
                self.send_header("Last-Modified", here.modified)
            self.end_headers()
            body = here.content[start:]
            self.wfile.write(body[: here.bytes_per_answer])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Site(f"http://127.0.0.1:{server.server_port}/text.jsonl")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield here
    server.shutdown()
    server.server_close()
    thread.join()
