"""The proxy of infra/compose, as Debian's Caddy runs it: TLS, and nobody gets in who has not said who they are."""

import base64
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.infra.servers import INFRA, free_port

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
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of the proxy for HTTPS; the services behind it are stand-ins."""
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("caddy is not installed: apt install caddy")
    folder, port, plain = tmp_path_factory.mktemp("caddy"), free_port(), free_port()
    hashed = subprocess.run(
        [caddy, "hash-password", "--plaintext", PASSWORD], capture_output=True, text=True, check=True
    )
    text = (INFRA / "compose" / "Caddyfile").read_text()
    text = text.replace("admin off", f"admin off\n\thttp_port {plain}\n\thttps_port {port}\n\tskip_install_trust", 1)
    servers = []
    for name in NAMES:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Named", (Upstream,), {"name": name}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = text.replace(name, f"127.0.0.1:{server.server_port}")
        servers.append(server)
    (folder / "Caddyfile").write_text(text)
    settings = {"DOMAIN": "localhost", "MACHINE_USER": "machine", "MACHINE_PASSWORD_HASH": hashed.stdout.strip()}
    environment = {**settings, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [caddy, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port)
        yield port
    finally:
        process.terminate()
        process.wait(20)
        for server in servers:
            server.shutdown()


def _wait(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if ask(port, "models", "/health").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError("the proxy does not answer")


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
def test_prefect_and_mlflow_ask_who_is_there(proxy: int, name: str, upstream: str) -> None:
    stranger = ask(proxy, name, "/api/flows?x=1")
    assert stranger.status_code == 302
    assert stranger.headers["location"].startswith("https://login.localhost/oauth2/start?rd=https://")
    assert upstream not in stranger.text
    person = ask(proxy, name, "/", Cookie="session=alice")
    assert (person.status_code, person.text) == (200, f"{upstream} alice@example.org None")
    machine = ask(proxy, name, "/", Authorization=basic(PASSWORD))
    assert (machine.status_code, machine.text) == (200, f"{upstream} None None"), "the password goes no further"
    assert ask(proxy, name, "/", Authorization=basic("wrong")).status_code == 401
    assert ask(proxy, name, "/", Authorization="Bearer x").status_code == 302


def test_nobody_can_say_himself_who_he_is(proxy: int) -> None:
    header = {"X-Auth-Request-Email": "root@example.org"}
    assert ask(proxy, "mlflow", "/", **header).status_code == 302
    assert "root@" not in ask(proxy, "mlflow", "/", Cookie="session=alice", **header).text


def test_the_server_of_models_shows_its_api_but_not_its_figures(proxy: int) -> None:
    assert ask(proxy, "models", "/v1/models", Authorization="Bearer key").text == "server:8000 None Bearer key"
    assert ask(proxy, "models", "/metrics").status_code == 404
    assert ask(proxy, "s3", "/lacewing", Authorization="AWS4-HMAC-SHA256 x").text == "s3:7070 None AWS4-HMAC-SHA256 x"


def test_a_name_that_is_not_ours_gets_no_certificate(proxy: int) -> None:
    with pytest.raises(httpx.ConnectError):
        ask(proxy, "other", "/")


def test_the_file_is_what_compose_mounts() -> None:
    assert "./compose/Caddyfile:/etc/caddy/Caddyfile:ro" in (INFRA / "compose.yaml").read_text()
    assert Path(INFRA / "compose" / "Caddyfile").is_file()
