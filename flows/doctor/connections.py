"""Connections: is anybody there, and does a proxy stand between?"""

import os
import socket
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flows.doctor.finding import Finding, fault, ok, warning

if TYPE_CHECKING:
    from conf.schema import ProjectConfig
    from conf.services import VersioningConfig

TIMEOUT_SECONDS = 2.0
LOCAL = "127.0.0.1"


def proxy() -> Finding:
    """Whether a proxy catches requests to this very machine, where the servers are."""
    proxies = {kind: address for kind, address in urllib.request.getproxies().items() if kind in ("http", "all")}
    if proxies and not urllib.request.proxy_bypass(LOCAL):
        return warning(
            f"requests to {LOCAL} go to the proxy {next(iter(proxies.values())).rpartition('@')[2]}",
            f"export NO_PROXY=localhost,{LOCAL}",
        )
    return ok("none is in the way of servers on this machine")


def endpoints(config: "ProjectConfig") -> Finding:
    """Whether every endpoint that the settings name answers, and has a key if it is elsewhere."""
    found = list(_endpoints(config))
    silent = [
        f"{setting} {url} does not answer ({error})" for setting, url, _ in found if (error := unreachable_url(url))
    ]
    keyless = {key: url for _, url, key in found if not os.environ.get(key) and not _is_local(url)}
    if silent:
        return warning("; ".join(silent), "start the server, or name another address in that setting")
    if keyless:
        words = "; ".join(f"{url} gets no key, for {key} is not set" for key, url in keyless.items())
        return warning(words, " ".join(f"export {key}=..." for key in keyless))
    return ok(", ".join(f"{setting} {url}" for setting, url, _ in found) or "no setting names one")


def _endpoints(config: "ProjectConfig") -> Iterator[tuple[str, str, str]]:
    """The setting, the address and the variable of the key."""
    helper, judge = config.cascade.helper, config.facts.factscore.judge
    if helper.kind == "endpoint":
        yield "cascade.helper.url", helper.url, "LACEWING_HELPER_API_KEY"
    if judge.kind == "endpoint":
        yield "facts.factscore.judge.url", judge.url, "LACEWING_JUDGE_API_KEY"
    if config.arena.judge.kind == "endpoint":
        yield "arena.judge.url", config.arena.judge.url, "LACEWING_JUDGE_API_KEY"
    if config.evaluate.model.startswith(("http://", "https://")):
        yield "evaluate.model", config.evaluate.model, "LACEWING_EVALUATE_API_KEY"


def bucket(versioning: "VersioningConfig", address: str) -> Finding:
    """What can be said of a remote on S3 without asking the provider."""
    try:
        words = f"{address}, by dvc-s3 {metadata.version('dvc-s3')}"
    except metadata.PackageNotFoundError:
        return fault(f"{address} needs dvc-s3, which is not installed", "pip install 'lacewing[s3]'")
    if versioning.endpoint_url and (error := unreachable_url(versioning.endpoint_url)):
        return warning(
            f"{words}; {versioning.endpoint_url} does not answer ({error}): flows run, and do not push",
            "start it, then `lacewing sync`; or versioning.endpoint_url= another address",
        )
    return ok(f"{words}; `lacewing data list` tries the rights")


def unreachable_url(url: str) -> str:
    parts = urlsplit(url)
    return unreachable(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def unreachable(host: str, port: int) -> str:
    """Why no connection to ``host`` can be made; empty if one can."""
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _is_local(url: str) -> bool:
    from flows.ports import is_loopback

    return is_loopback(urlsplit(url).hostname or "")
