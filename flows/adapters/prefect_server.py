"""A Prefect server for one command, if no other is configured: ``python -m flows.adapters.prefect_server PORT``.

Prefect would start one by itself, but only when the first request needs it, and after importing the whole server into
the flow's process as well. Here the server starts first, and the flow imports what it needs while the server does.
"""

import atexit
import os
import socket
import subprocess
import sys
import threading
import tomllib
from contextlib import closing
from pathlib import Path

from components.core.errors import ServiceError
from components.core.parent import follow_parent
from flows.adapters import prefect_outage
from flows.ports import wait_until_answers

API_URL = "PREFECT_API_URL"
_LOCAL = "127.0.0.1"
# Files besides the environment from which Prefect takes its settings, and what in them may name a server.
_TEMPORARY = ("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "PREFECT_SERVER_EPHEMERAL_ENABLED")
_NO = ("false", "0", "no", "off", "f", "n")
_SETTINGS = {"prefect.toml": "api", ".env": API_URL, "pyproject.toml": "[tool.prefect"}


class PrefectServer:
    """A server process that lives no longer than this one."""

    def __init__(self) -> None:
        self._url = f"http://{_LOCAL}:{_free_port()}/api"
        port = self._url.rpartition(":")[2].partition("/")[0]
        command = [sys.executable, "-m", "flows.adapters.prefect_server", port]
        # The pipe ends with this process, even with a killed one, and the server with it.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self._stopping = False
        atexit.register(self.stop)
        os.environ[API_URL] = self._url

    def wait(self) -> None:
        """Return when the server answers; raises ``ServiceError`` if it does not in time."""
        seconds = float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"])
        if not wait_until_answers(f"{self._url}/health", seconds, lambda: self._process.poll() is None):
            happened = "ended" if self._process.poll() is not None else f"did not answer within {seconds:.0f} s"
            raise ServiceError(
                f"Prefect's server at {self._url} {happened}; its own words are above. "
                "Run the same command again, or start one with `lacewing up`."
            )
        threading.Thread(target=self._watch, name="prefect-watch", daemon=True).start()

    def stop(self) -> None:
        """End the server; called at the end of this process."""
        self._stopping = True
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _watch(self) -> None:
        code = self._process.wait()
        if not self._stopping:
            cause = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            prefect_outage.give_up(f"Prefect's temporary server {cause}")


def server_is_chosen() -> bool:
    """Whether the environment or one of Prefect's files says where its server is, or that there must be none."""
    if API_URL in os.environ or any(os.environ.get(name, "").lower() in _NO for name in _TEMPORARY):
        return True
    if _profile_names_server(Path(os.environ["PREFECT_HOME"]) / "profiles.toml"):
        return True
    return any(Path(name).exists() and word in Path(name).read_text() for name, word in _SETTINGS.items())


def _profile_names_server(path: Path) -> bool:
    # A profile that names none would have Prefect start one of its own, which outlives a killed flow.
    if not path.exists():
        return False
    content = tomllib.loads(path.read_text())
    active = os.environ.get("PREFECT_PROFILE") or content.get("active", "")
    return API_URL in content.get("profiles", {}).get(active, {})


def serve(port: int) -> None:
    """Be the server, with what Prefect runs in a temporary one: no UI, no scheduler."""
    follow_parent(lambda: os._exit(0))  # at once: nobody waits for its answers any more
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(ephemeral=True, final=True), host=_LOCAL, port=port, log_level="error")


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind((_LOCAL, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
