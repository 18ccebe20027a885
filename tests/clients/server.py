"""A server on loopback that answers as OpenAI's do, or as a test wants: refuses, trickles, floods, hangs."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.send({"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.paths.append(self.path)
        self.server.bodies.append(body)
        self.server.headers.append(dict(self.headers))
        self.server.connections.add(self.client_address)
        if self.server.act is None or self.server.act(self) is False:
            self.send(self.server.answer(body))

    def send(self, body: object, status: int = 200) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if 300 <= status < 400:
            self.send_header("Location", "http://127.0.0.1:9/stolen")
        self.end_headers()
        self.wfile.write(content)

    def trickle(self, pause_seconds: float = 0.03, status: int = 200) -> None:
        """Something all the time, and never an answer."""
        self.send_response(status)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(40):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(pause_seconds)

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Completes by ``complete(prompt)`` and chats by ``say(message)``, unless ``act`` does something else (anything
    but False). It remembers what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[tuple[str, int]] = set()
        self.models = ["large"]
        self.complete: Callable[[str], object] = lambda prompt: " Brackwater, where"
        self.say: Callable[[str], object] = lambda message: "True"
        self.act: Callable[[Handler], object] | None = None
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, body: dict[str, Any]) -> object:
        if "messages" in body:
            said = self.say(body["messages"][0]["content"])
            return {"choices": [{"message": {"role": "assistant", "content": said}}]}
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        choices = [{"index": place, "text": self.complete(prompt)} for place, prompt in enumerate(prompts)]
        return {"choices": choices[::-1], "usage": {"completion_tokens": 3 * len(prompts)}}

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
