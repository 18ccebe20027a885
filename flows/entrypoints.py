"""The Prefect flows by name: ``flows.entrypoints.pipeline`` is what a worker imports to run the flow ``pipeline``.

Made of the catalogue at first need, so that neither a page of help nor a dry run waits for Prefect.
"""

import inspect
from typing import TYPE_CHECKING, Any

from conf.compose import Preset
from flows import catalogue
from flows.adapters.prefect_outage import Outcome
from flows.adapters.prefect_runs import name_process
from flows.adapters.prefect_states import ended, keep_words_of_cancelled_run, leave_out_tracebacks
from flows.execution import execute
from flows.summary import Summary

if TYPE_CHECKING:
    import prefect

_PARAMETERS = """

Args:
    preset: Experiment to start from.
    overrides: Changes to it, each `key=value`, for example `{example}`.
"""


def prefect_flow(entry: catalogue.Flow, outcome: Outcome[Summary] | None = None) -> "prefect.Flow[..., Summary]":
    """The Prefect flow of a catalogue entry; its form has two fields, described here for every flow.

    Args:
        entry: the flow.
        outcome: keeps what comes of it.
    """
    from prefect import flow

    kept = outcome or Outcome()

    def run_flow(preset: Preset = Preset.world, overrides: list[str] = []) -> Summary:  # noqa: B006 (the form needs a list)
        # Prefect takes states.
        return ended(lambda: kept.keep(lambda: execute(entry, preset.value, overrides)))  # type: ignore[return-value]

    # Prefect finds the flow again by module and name, and reads the descriptions of its form from the docstring.
    run_flow.__module__ = __name__
    run_flow.__name__ = run_flow.__qualname__ = entry.name
    run_flow.__doc__ = inspect.cleandoc(entry.description) + _PARAMETERS.format(example=entry.example)
    leave_out_tracebacks()
    decorated = flow(name=entry.name, validate_parameters=True, on_running=[name_process])(run_flow)
    decorated.on_cancellation(keep_words_of_cancelled_run)
    return decorated


def __getattr__(name: str) -> Any:
    if name in catalogue.flows():
        return prefect_flow(catalogue.flows()[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: no flow of that name in the catalogue")
