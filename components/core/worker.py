"""Runs one stage in a process of its own: ``python -m components.core.worker FOLDER [--follow-parent]``.

Training must be cancellable, own its memory and survive the re-execution of its script by distributed launchers, so it
never shares a process with the flow. Configuration and inputs are passed as JSON in ``request.json``. Metrics and
progress come back through ``events.jsonl``, an error through ``error.json``.
"""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from components.core.acceptance import Acceptance, joined
from components.core.artifact import LOCK, Artifact
from components.core.atomic import write_json, write_text
from components.core.errors import LacewingError
from components.core.identity import RecordedIdentity
from components.core.parent import FOLLOW_PARENT, follow_parent
from components.core.run import Run

REQUEST = "request.json"
ERROR = "error.json"
# An orphan of a killed flow needs this long at most to notice, save its checkpoint and leave the folder.
ORPHAN_TIMEOUT_SECONDS = 120


class Request(BaseModel):
    """A stage to run: its function as ``module:function``, its config class likewise, and its input folders by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    function: str
    config_type: str
    config: dict[str, Any]
    inputs: dict[str, Path]
    identity: RecordedIdentity
    accepted: list[Acceptance] = []
    """What has been vouched for further up, where the records of the inputs do not say so."""


def write_request(folder: Path, request: Request) -> None:
    """Leave ``request`` in ``folder`` for the worker process."""
    write_text(folder / REQUEST, request.model_dump_json(indent=2))


def main(folder: Path) -> int:
    """Run the stage requested in ``folder``; returns the process's exit code."""
    with _sole_worker(folder):
        request = Request.model_validate_json((folder / REQUEST).read_bytes())
        try:
            config = _named(request.config_type).model_validate(request.config)
            stage = _named(request.function)
            inputs = open_inputs(stage, request.inputs)
            accepted = joined(request.accepted, *(each.record.accepted for each in inputs.values()))
            stage(Run.recorded(folder, request.identity, accepted), config, **inputs)
        except LacewingError as error:
            write_json(folder / ERROR, {"type": type(error).__name__, "message": str(error)})
            return error.exit_code
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            write_json(folder / ERROR, {"type": "bug", "message": text, "traceback": traceback.format_exc()})
            raise
    return 0


def open_inputs(stage: Callable[..., Artifact], folders: Mapping[str, Path]) -> dict[str, Artifact]:
    """Open each folder as the view that ``stage`` declares for the input of that name.

    Raises ``ArtifactError`` for a folder that is no artifact or that another stage made, ``TypeError`` for a name that
    ``stage`` does not know.
    """
    hints = get_type_hints(stage)
    parameters = inspect.signature(stage).parameters.values()
    named = {each.name: hints[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    others = next((hints[each.name] for each in parameters if each.kind is each.VAR_KEYWORD), None)
    if unknown := [name for name in folders if name not in named and others is None]:
        raise TypeError(f"the stage takes the inputs {sorted(named)}, not {unknown}")
    return {name: _view(named.get(name, others)).open(folder) for name, folder in folders.items()}


def _view(annotation: Any) -> type[Artifact]:
    """The view class in an annotation ``View`` or ``View | None``."""
    candidates = get_args(annotation) or (annotation,)
    return next(each for each in candidates if isinstance(each, type) and issubclass(each, Artifact))


@contextmanager
def _sole_worker(folder: Path) -> Iterator[None]:
    """Keep other workers out of ``folder``, all but the ranks of this very run.

    Lightning starts the other ranks of a distributed run by running this command again; the first holds the lock.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    with FileLock(folder / LOCK, timeout=ORPHAN_TIMEOUT_SECONDS):
        (folder / ERROR).unlink(missing_ok=True)
        yield


def _named(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    if FOLLOW_PARENT in sys.argv[2:]:  # the flow may be killed outright, and then training must not continue
        follow_parent()
    sys.exit(main(Path(sys.argv[1])))
