"""The server as a process of its own, with its output within reach."""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE_SECONDS = 180.0


@contextmanager
def started(folder: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The server of the bundle in ``folder``."""
    arguments = [str(folder), "--threads", "1", *options]
    with running("components.deployment.server", arguments, environment) as process:
        yield process


@contextmanager
def running(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(PATIENCE_SECONDS, process.kill)  # nothing below waits longer
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        process.kill()
        process.communicate()


def drained(process: subprocess.Popen[str]) -> None:
    """Let nobody read what the process logs; it would stop at a full pipe."""
    assert process.stderr is not None
    threading.Thread(target=deque, args=(process.stderr, 0), daemon=True).start()


def messages(log: str) -> list[str]:
    """What a process has logged beside its requests."""
    lines = [json.loads(line) for line in log.splitlines()]
    return [f"{line['level'].upper()} {line['message']}" for line in lines if line["event"] == "message"]


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert " on http://" in line, line
    return line.split()[-1]
