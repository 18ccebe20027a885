"""What a flow came to: a table for people, and a small summary for programs."""

from typing import Any, TypedDict

from components.core.acceptance import joined
from flows import console
from flows.adapters import prefect_ui
from flows.headlines import headline_rows
from flows.run import FlowRun, Row
from flows.workspace import workspace_folder


class Summary(TypedDict):
    """What a flow returns: JSON only, small enough to travel anywhere."""

    flow: str
    preset: str
    config_digest: str
    stages: dict[str, dict[str, str]]
    release: dict[str, Any] | None


def finished(run: FlowRun, where: str) -> Summary:
    """Print the closing table, publish it in Prefect and return the summary.

    ``where`` says where its metrics can be seen.
    """
    rows = _rows(run, where)
    console.show_table(f"{run.flow} ({run.preset})", rows)
    prefect_ui.table("summary", rows, f"What {run.flow} came to")
    return _summary(run)


def closing_page(run: FlowRun, where: str) -> str:
    """The closing table as markdown."""
    return prefect_ui.markdown_table(_rows(run, where))


def _summary(run: FlowRun) -> Summary:
    return Summary(
        flow=run.flow,
        preset=run.preset,
        config_digest=run.config_digest,
        stages={
            name: {"status": outcome.status, "reason": outcome.reason, "key": outcome.artifact.key}
            for name, outcome in run.outcomes.items()
        },
        release=run.release.as_json() if run.release else None,
    )


def _rows(run: FlowRun, where: str) -> list[Row]:
    """A refusal, the rows of the flow and its stages, then the outcome and the places of the results.

    If a flow runs a stage in several variants, their rows are left out.
    """
    return [
        *_refusal_rows(run),
        *run.rows,
        *(row for artifact in run.artifacts for row in headline_rows(artifact)),
        *_release_rows(run),
        *(("accepted", str(each)) for each in joined(*run.accepted.values())),
        ("stages", ", ".join(f"{name} {outcome.status}" for name, outcome in run.outcomes.items())),
        ("config digest", run.config_digest),
        ("where to look", where),
        ("files", str(workspace_folder())),
    ]


def _refusal_rows(run: FlowRun) -> list[Row]:
    return [("refused", run.release.reason)] if run.release and not run.release.promoted else []


def _release_rows(run: FlowRun) -> list[Row]:
    if run.release is None:
        return []
    registry = ("registry", f"{run.release.model} version {run.release.version}, {run.release.alias}")
    return [registry, ("gate", run.release.reason)] if run.release.promoted else [registry]
