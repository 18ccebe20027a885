"""How a flow ends: a table for people, a small summary for programs, and the word *Refused* where the gate said no."""

from typing import Any, TypedDict

from flows import console, prefect_ui
from flows.stage import FlowRun
from flows.workspace import workspace_folder


class Summary(TypedDict):
    """What a flow returns: JSON only, small enough to travel anywhere."""

    flow: str
    preset: str
    config_digest: str
    stages: dict[str, dict[str, str]]
    release: dict[str, Any] | None


def finished(run: FlowRun) -> Summary:
    """Print the closing table, publish it in Prefect and return the summary (as a *Refused* state if refused)."""
    from prefect.states import Completed

    rows = _rows(run)
    console.show_table(f"{run.flow} ({run.preset})", rows)
    prefect_ui.page("summary", _markdown(rows), f"What {run.flow} came to")
    summary = Summary(
        flow=run.flow,
        preset=run.preset,
        config_digest=run.config_digest,
        stages={
            name: {"status": outcome.status, "reason": outcome.reason, "key": outcome.artifact.key}
            for name, outcome in run.outcomes.items()
        },
        release=run.release.as_json() if run.release else None,
    )
    if run.release and not run.release.promoted:
        # Prefect takes the state for the run and hands the caller its data: the summary.
        return Completed(name="Refused", message=run.release.reason, data=summary)  # type: ignore[return-value]
    return summary


def _rows(run: FlowRun) -> list[console.Row]:
    from flows import tracking, versioning

    rows: list[console.Row] = []
    if prepare := run.outcomes.get("prepare"):
        train = prepare.artifact.details["splits"]["train"]
        rows.append(("data version", versioning.describe(prepare.artifact)))
        rows.append(("training text", f"{train['documents']:,} documents, {train['tokens']:,} tokens"))
    if pretrain := run.outcomes.get("pretrain"):
        figures = pretrain.artifact.metrics
        rows.append(("parameters", f"{figures['parameters']:,.0f}"))
        rows.append(("tokens trained on", f"{figures['tokens']:,.0f} at {figures['tokens_per_second']:,.0f} tokens/s"))
        rows.append(("loss", f"{figures['loss']:.3f} training, {figures['validation_loss']:.3f} validation"))
    if label := run.outcomes.get("label"):
        figures = label.artifact.metrics
        rows.append(
            ("factual tokens", f"{figures['factual_share']:.1%}, found by {label.artifact.details['annotator']}")
        )
    if delegate := run.outcomes.get("delegate"):
        figures = delegate.artifact.metrics
        share = figures["tokens_call_grad"] / figures["tokens_forward"]
        rows.append(("learnt to ask for", f"{share:.1%} of {figures['tokens_forward']:,.0f} tokens"))
    if cascade := run.outcomes.get("cascade"):
        figures = cascade.artifact.metrics
        words = f"{figures['fact_accuracy_alone']:.1%} alone, {figures['fact_accuracy']:.1%} with calls filled in"
        rows.append(("facts right", f"{words}; {figures['wasted_calls']:.1%} of the calls wasted"))
        rows.append(("helper", str(cascade.artifact.details["helper"])))
    if assess := run.outcomes.get("assess"):
        figures = assess.artifact.metrics
        rows.append(("bits per byte", f"{figures['bits_per_byte']:.4f} on held-out text"))
        if "exact_match" in figures:
            rows.append(("questions answered", f"{figures['exact_match']:.1%} of {figures['questions']:,.0f}"))
    if run.release:
        rows.append(("registry", f"{run.release.model} version {run.release.version}, {run.release.alias}"))
        rows.append(("gate", run.release.reason))
        if run.release.answer:
            rows.append(("asked the served model", run.release.prompt))
            rows.append(("it answered", run.release.answer))
    rows.append(("stages", ", ".join(f"{name} {outcome.status}" for name, outcome in run.outcomes.items())))
    rows.append(("config digest", run.config_digest))
    rows.append(("where to look", tracking.where(run)))
    rows.append(("files", str(workspace_folder())))
    return rows


def _markdown(rows: list[console.Row]) -> str:
    cells = [(name, value.replace("|", "\\|").replace("\n", " ")) for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *(f"| **{name}** | {value} |" for name, value in cells)])
