"""The proxy of infra/compose, as Debian's Caddy runs it: TLS, and nobody gets in who has not said who they are."""

import base64
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.infra.servers import INFRA, proxy

PASSWORD = "correct horse"
NAMES = ("login:4180", "prefect:4200", "mlflow:5000", "s3:7070", "server:8000")


class Upstream(BaseHTTPRequestHandler):
    """Says who it is and which credentials have reached it; as the login, it knows one cookie."""

    name = ""

    def do_GET(self) -> None:
        known = "session=alice" in self.headers.get("Cookie", "")
        status = 200 if self.name != "login:4180" or self.path.startswith("/oauth2/start") else (202 if known else 401)
        self.send_response(status)
        if status == 202:
            self.send_header("X-Auth-Request-Email", "alice@example.org")
        self.end_headers()
        seen = f"{self.headers.get('X-Auth-Request-Email')} {self.headers.get('Authorization')}"
        self.wfile.write(f"{self.name} {seen}".encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of the proxy; the services behind it are stand-ins."""
    servers = {
        name: ThreadingHTTPServer(("127.0.0.1", 0), type("Named", (Upstream,), {"name": name})) for name in NAMES
    }
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    places = {name: f"127.0.0.1:{server.server_port}" for name, server in servers.items()}
    with proxy(tmp_path_factory.mktemp("caddy"), places, {}, PASSWORD) as number:
        yield number
    for server in servers.values():
        server.shutdown()


def ask(port: int, name: str, path: str, **headers: str) -> httpx.Response:
    """A request over TLS to one of the proxy's names; its certificate is of Caddy's own authority."""
    host = f"{name}.localhost"
    with closing(httpx.Client(verify=False, timeout=60)) as client:
        return client.get(
            f"https://127.0.0.1:{port}{path}", headers={"Host": host, **headers}, extensions={"sni_hostname": host}
        )


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"machine:{password}".encode()).decode()


@pytest.mark.parametrize(("name", "upstream"), [("prefect", "prefect:4200"), ("mlflow", "mlflow:5000")])
def test_prefect_and_mlflow_ask_who_is_there(port: int, name: str, upstream: str) -> None:
    stranger = ask(port, name, "/api/flows?x=1")
    assert stranger.status_code == 302
    assert stranger.headers["location"].startswith("https://login.localhost/oauth2/start?rd=https://")
    assert upstream not in stranger.text
    person = ask(port, name, "/", Cookie="session=alice")
    assert (person.status_code, person.text) == (200, f"{upstream} alice@example.org None")
    machine = ask(port, name, "/", Authorization=basic(PASSWORD))
    assert (machine.status_code, machine.text) == (200, f"{upstream} None None"), "the password goes no further"
    assert ask(port, name, "/", Authorization=basic("wrong")).status_code == 401
    assert ask(port, name, "/", Authorization="Bearer x").status_code == 302


def test_nobody_can_say_himself_who_he_is(port: int) -> None:
    header = {"X-Auth-Request-Email": "root@example.org"}
    assert ask(port, "mlflow", "/", **header).status_code == 302
    assert "root@" not in ask(port, "mlflow", "/", Cookie="session=alice", **header).text


def test_the_server_of_models_shows_its_api_but_not_its_figures(port: int) -> None:
    assert ask(port, "models", "/v1/models", Authorization="Bearer key").text == "server:8000 None Bearer key"
    assert ask(port, "models", "/metrics").status_code == 404
    assert ask(port, "s3", "/lacewing", Authorization="AWS4-HMAC-SHA256 x").text == "s3:7070 None AWS4-HMAC-SHA256 x"


def test_a_name_that_is_not_ours_gets_no_certificate(port: int) -> None:
    with pytest.raises(httpx.ConnectError):
        ask(port, "other", "/")


def test_the_file_is_what_compose_mounts() -> None:
    assert "./compose/Caddyfile:/etc/caddy/Caddyfile:ro" in (INFRA / "compose.yaml").read_text()
