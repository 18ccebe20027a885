"""Runs one stage in a process of its own: ``python -m components.core.worker FOLDER``.

Training must be cancellable, own its memory and survive the re-execution of its script by distributed launchers, so
it never shares a process with the flow. Config and inputs cross as JSON in ``request.json``; metrics and progress come
back through ``events.jsonl``; an error that a person should see comes back through ``error.json``.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.core.artifact import Artifact
from components.core.atomic import write_json, write_text
from components.core.errors import LacewingError
from components.core.identity import Identity
from components.core.run import Run

REQUEST = "request.json"
ERROR = "error.json"


class Request(BaseModel):
    """A stage to run: its function as ``module:function``, its config class likewise, and its input folders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    function: str
    config_type: str
    config: dict[str, Any]
    inputs: list[Path]
    identity: Identity


def write_request(folder: Path, request: Request) -> None:
    """Leave ``request`` in ``folder`` for the worker process."""
    write_text(folder / REQUEST, request.model_dump_json(indent=2))


def main(folder: Path) -> int:
    """Run the stage requested in ``folder``; returns the process's exit code."""
    (folder / ERROR).unlink(missing_ok=True)
    request = Request.model_validate_json((folder / REQUEST).read_bytes())
    try:
        config = _named(request.config_type).model_validate(request.config)
        inputs = [Artifact.open(path) for path in request.inputs]
        _named(request.function)(Run.recorded(folder, request.identity), config, *inputs)
    except LacewingError as error:
        write_json(folder / ERROR, {"type": type(error).__name__, "message": str(error)})
        return error.exit_code
    return 0


def _named(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
