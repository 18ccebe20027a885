"""What people see of a run in Prefect that did not complete, with a real server."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, TaskRun

from components.core.errors import InputError
from flows.adapters.prefect_states import ended
from flows.adapters.prefect_ui import run_as_task
from flows.endings import InterruptedRunError, RefusedError
from flows.launcher import WorkerKilledError
from flows.workspace import make_workspace

KEPT = " at step 25, checkpoint saved"
WORDS = "Cancelled at step 25, checkpoint saved; run again to go on"


class Seen:
    """A run as the pages of Prefect show it."""

    def __init__(self, run_id: UUID) -> None:
        ids = FlowRunFilterId(any_=[run_id])
        with get_client(sync_client=True) as client:
            self.run: FlowRun = client.read_flow_run(run_id)
            self.tasks: list[TaskRun] = client.read_task_runs(flow_run_filter=FlowRunFilter(id=ids))
            self.log = log_of(client, run_id)


def log_of(client: SyncPrefectClient, run_id: UUID) -> str:
    """The run's log; it is sent in the background, and its last line says how the run finished."""
    deadline = time.monotonic() + 30
    text = ""
    while "Finished in state" not in text.rpartition("\n")[2] and time.monotonic() < deadline:
        time.sleep(0.2)
        lines = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])))
        text = "\n".join(line.message for line in sorted(lines, key=lambda line: line.timestamp))
    return text


def run_flow(work: Callable[[], object]) -> tuple[Seen, BaseException | None]:
    """Run ``work`` as our flows are run; what is seen of it, and what the caller gets."""
    make_workspace()
    ids: list[UUID] = []

    @flow(name="probe", flow_run_name="brave-owl")
    def probe() -> Any:
        from prefect.context import FlowRunContext

        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        ids.append(context.flow_run.id)
        return ended(work)

    raised: BaseException | None = None
    try:
        probe()
    except Exception as error:
        raised = error
    return Seen(ids[0]), raised


def in_a_task(action: Callable[[], object]) -> Callable[[], object]:
    return lambda: run_as_task(
        action, name="pretrain", run_name="pretrain-1", retries=1, retry_on=WorkerKilledError, kept=lambda: KEPT
    )


def raising(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def test_a_refusal_reads_as_refused_and_its_reason_is_in_the_name() -> None:
    seen, raised = run_flow(raising(RefusedError("worse by 0.1 bits per byte", {"flow": "pipeline"})))
    state = seen.run.state
    assert state is not None
    assert (state.type.value, state.name, state.message) == ("FAILED", "Refused", "worse by 0.1 bits per byte")
    assert seen.run.name == "brave-owl – refused: worse by 0.1 bits per byte"
    assert isinstance(raised, RefusedError)
    assert raised.summary == {"flow": "pipeline"}


@pytest.mark.parametrize("where", ["flow", "task"])
def test_an_error_of_ours_is_logged_as_its_message_alone(where: str) -> None:
    bad = raising(InputError("unknown key 'trainer.stepz'; did you mean trainer.steps?"))
    seen, raised = run_flow(bad if where == "flow" else in_a_task(bad))
    assert isinstance(raised, InputError)
    assert seen.run.state is not None
    assert seen.run.state.message == "unknown key 'trainer.stepz'; did you mean trainer.steps?"
    assert "did you mean trainer.steps?" in seen.log
    assert "Traceback" not in seen.log
    assert seen.run.name.startswith("brave-owl – failed: unknown key")


def test_a_bug_keeps_its_traceback() -> None:
    seen, raised = run_flow(raising(ZeroDivisionError("one over none")))
    assert isinstance(raised, ZeroDivisionError)
    assert "Traceback" in seen.log


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_stage_and_its_flow_say_what_is_kept(number: signal.Signals, code: int) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), number)
        signal.pause()

    seen, raised = run_flow(in_a_task(interrupt))
    (task,) = seen.tasks
    for state in (task.state, seen.run.state):
        assert state is not None
        assert (state.type.value, state.name, state.message) == ("CANCELLED", "Cancelled", WORDS)
    assert seen.run.name == f"brave-owl – {WORDS[0].lower()}{WORDS[1:]}"
    assert "Crash" not in seen.log
    assert isinstance(raised, InterruptedRunError)
    assert (str(raised), raised.exit_code) == (WORDS, code)


def test_the_name_of_a_run_that_goes_on_forgets_how_it_ended_before() -> None:
    make_workspace()

    @flow(name="probe", flow_run_name="brave-owl – cancelled at step 25, checkpoint saved; run again to go on")
    def probe() -> Any:
        return ended(lambda: "done")

    state = probe(return_state=True)
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    assert Seen(run_id).run.name == "brave-owl"
