"""The states in which runs end in Prefect, each with what a person must know, and without a traceback.

Refused     type *Failed*, named *Refused*: the gate's answer was no
Cancelled   after Ctrl-C, SIGTERM or the button *Cancel*: what is kept, and how to go on
Failed      the message of the error alone; for a trial of a sweep that is worse than others, named *Not worthwhile*

The pages of Prefect show the message of a state far below, in the details. So the run's name carries it as well.
"""

import logging
import re
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from components.core.errors import LacewingError
from flows.adapters.prefect_outage import attempt
from flows.endings import GO_ON, InterruptedRunError, NotWorthwhileError, RefusedError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

Result = TypeVar("Result")

REFUSED = "Refused"
NOT_WORTHWHILE = "Not worthwhile"
# What is added to the name of a run that did not complete.
_ENDING = re.compile(r" – (refused|failed|cancelled)\b.*", re.DOTALL)
_TITLE_CHARACTERS = 160
# How long a runner takes at most from the end of a cancelled process to its own last word on the run.
_RUNNER_SECONDS = 30.0


def leave_out_tracebacks() -> None:
    """Keep the tracebacks of our own errors out of the logs of runs; idempotent.

    Prefect logs one for each state that is not completed, although the state says what happened. The flow has logged
    the message already; a task's line stays, because it says whether the task is tried again.
    """
    logging.getLogger("prefect.flow_runs").addFilter(_is_no_error_of_ours)
    logging.getLogger("prefect.task_runs").addFilter(_without_our_traceback)


def interruptions() -> tuple[type[BaseException], ...]:
    """What stops a run from outside."""
    from prefect.exceptions import TerminationSignal

    return (KeyboardInterrupt, SystemExit, TerminationSignal)


def ended(action: Callable[[], Result]) -> "Result | State[Any]":
    """Do the work of a flow; if it does not complete, the state that says why, for Prefect to end the run in.

    Whoever called the flow gets the error that the state carries.
    """
    from prefect.states import Cancelled, Failed

    _name_run("")
    try:
        return action()
    except RefusedError as refusal:
        _name_run(f"refused: {refusal}")
        return Failed(name=REFUSED, message=str(refusal), data=refusal)
    except LacewingError as error:
        _name_run(f"failed: {error}")
        return _failed(error)
    except interruptions() as stop:
        words = cancelled_words(stop)
        _name_run(words.replace("Cancelled", "cancelled", 1))
        return Cancelled(message=words, data=InterruptedRunError(words, _exit_code(stop)))


def task_ended(
    action: Callable[[], Result], retry_on: type[Exception], kept: Callable[[], str], stopped: list[BaseException]
) -> "Result | State[Any]":
    """Do the work of a task; if it does not complete, the state that says why, unless trying again may help.

    ``kept`` says what is left of interrupted work. The interruption itself is left in ``stopped``.
    """
    from prefect.states import Cancelled, Failed

    try:
        return action()
    except retry_on:
        raise
    except NotWorthwhileError as reason:
        return Failed(name=NOT_WORTHWHILE, message=str(reason), data=reason)
    except LacewingError as error:
        return _failed(error)
    except interruptions() as stop:
        stop.add_note(f"Cancelled{kept()}; {GO_ON}")
        stopped.append(stop)
        return Cancelled(message=cancelled_words(stop))


def cancelled_words(stop: BaseException) -> str:
    """What the interrupted task has noted, for people."""
    notes: list[str] = getattr(stop, "__notes__", [])
    return notes[-1] if notes else f"Cancelled; {GO_ON}"


def keep_words_of_cancelled_run(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """A hook on cancellation: once Prefect's runner has said its last word on the run, restore ours.

    The runner ends each cancelled run as *Cancelled*, "Flow run was cancelled successfully", whatever the flow itself
    has reported, and it does so after this hook. So a thread waits for that.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        ours = client.read_flow_run(flow_run.id).state
    if ours and ours.is_cancelled() and ours.message:
        threading.Thread(target=_restore, args=(flow_run, ours), daemon=True).start()


def _restore(flow_run: "FlowRun", ours: "State[Any]") -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    deadline = time.monotonic() + _RUNNER_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            now = client.read_flow_run(flow_run.id).state
            if now and now.is_cancelled() and now.message != ours.message:
                client.set_flow_run_state(flow_run.id, Cancelled(message=ours.message), force=True)
                return
            time.sleep(0.2)


def _is_ours(record: logging.LogRecord) -> bool:
    return bool(record.exc_info) and isinstance(record.exc_info[1], LacewingError)  # type: ignore[index]


def _is_no_error_of_ours(record: logging.LogRecord) -> bool:
    return not _is_ours(record)


def _without_our_traceback(record: logging.LogRecord) -> bool:
    if _is_ours(record):
        record.exc_info = None
    return True


def _failed(error: LacewingError) -> "State[Any]":
    from prefect.logging import get_run_logger
    from prefect.states import Failed

    get_run_logger().error(str(error))
    return Failed(message=str(error), data=error)


def _name_run(ending: str) -> None:
    """Let the name of the flow's run end with this; what an earlier attempt has put there is taken away."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    run = context.flow_run
    own = _ENDING.sub("", run.name)
    shortened = textwrap.shorten(ending, _TITLE_CHARACTERS, placeholder=" …")
    name = f"{own} – {shortened}" if ending else own
    if name != run.name:

        def rename() -> None:
            with get_client(sync_client=True) as client:
                client.update_flow_run(run.id, name=name)
                run.name = name

        with suppress(httpx.HTTPStatusError):  # a name is not worth losing a run for
            attempt(rename)


def _exit_code(stop: BaseException) -> int:
    """As a shell would say it: 128 and the number of the signal."""
    if isinstance(stop, SystemExit):
        return stop.code if isinstance(stop.code, int) else 1
    return 128 + int(getattr(stop, "signal", 2))
