"""Flow ``board``: every registered version on one page, with its figures, verdict, data and cost."""

from collections.abc import Iterator, Mapping, Sequence

from components.core.artifact import Artifact
from components.core.atomic import write_text
from components.core.durations import duration
from components.evaluation.report import short
from components.evaluation.report_page import Section, Table, Words, markdown
from components.evaluation.report_page import page as html_page
from flows import console
from flows.adapters import prefect_ui
from flows.adapters.mlflow_registry import Version
from flows.adapters.model_card import REASON, VERDICT
from flows.catalogue import flow
from flows.promotion import ROLLED_BACK, Registry
from flows.run import FlowRun
from flows.workspace import find_artifact, workspace_folder

PAGE = "board.html"
# What a column is called, the metric of the bundle, and how it is written.
FIGURES = {
    "bits per byte, alone": ("assessment.bits_per_byte", "{:.4f}"),
    "questions answered": ("assessment.exact_match", "{:.1%}"),
    "facts right, alone": ("cascade.fact_accuracy_alone", "{:.1%}"),
    "facts right, with calls": ("cascade.fact_accuracy", "{:.1%}"),
    "calls wasted": ("cascade.wasted_calls", "{:.1%}"),
}

_HOW_TO_READ = (
    "The figures are those of the run that made a version, on its own held-out text, the newest version first. "
    "Versions of different data cannot be compared by them: `lacewing compare 3 champion` measures both on one text."
)

Listed = tuple[Version, Sequence[str], Mapping[str, float]]


@flow("every registered version on one page: figures, verdict, data and cost", example="tracking.uri=''", order=68)
def board(run: FlowRun) -> None:
    """Write one page about every version of the registered model: alias, date, figures, the gate's verdict, data, cost.

    It trains and measures nothing: the figures are those that were registered with each version.
    """
    path = workspace_folder() / PAGE
    if run.dry:
        console.say(f"board      would write {path}")
        return
    registry = Registry(run.config.tracking)
    listed = registry.listed()
    title, sections = f"Versions of {registry.name}", list(versions(registry.name, listed))
    write_text(path, html_page(title, sections))
    prefect_ui.page("board", markdown(title, sections), title)
    run.rows += [("board", str(path)), ("versions", str(len(listed)))]


def versions(name: str, listed: Sequence[Listed]) -> Iterator[Section]:
    """What the board shows."""
    if not listed:
        empty = f"The registry holds no version of {name} yet: `lacewing pipeline` trains, registers and promotes one."
        yield Section("No versions", [Words(empty)])
        return
    figures = Table(["version", "alias", *FIGURES], [_figures(*each) for each in listed])
    verdicts = Table(["version", "verdict", "reason"], [_verdict(version) for version, _, _ in listed])
    origin = ["version", "registered", "experiment", "data", "parameters", "tokens", "training", "size"]
    yield Section("How good", [Words(_HOW_TO_READ), figures])
    yield Section("What the gate said", [verdicts])
    yield Section("What it is made of", [Table(origin, [_origin(version, found) for version, _, found in listed])])


def _figures(version: Version, aliases: Sequence[str], figures: Mapping[str, float]) -> list[str]:
    shown = (text.format(figures[metric]) if metric in figures else "–" for metric, text in FIGURES.values())
    return [str(version.number), ", ".join(aliases), *shown]


def _verdict(version: Version) -> list[str]:
    left = version.tags.get(ROLLED_BACK)
    verdict = version.tags.get(VERDICT, "not judged") + (f", rolled back on {left}" if left else "")
    return [str(version.number), verdict, version.tags.get(REASON, "")]


def _origin(version: Version, figures: Mapping[str, float]) -> list[str]:
    tokens, seconds = figures.get("training.tokens"), figures.get("training.seconds")
    return [
        str(version.number),
        f"{version.registered:%Y-%m-%d %H:%M} UTC",
        version.tags.get("lacewing.preset", "–"),
        _data(find_artifact(version.key)),
        short(figures["parameters"]) if "parameters" in figures else "–",
        "–" if tokens is None else short(tokens),
        "–" if seconds is None else duration(seconds),
        f"{short(figures['bytes'])}B" if "bytes" in figures else "–",
    ]


def _data(bundle: Artifact | None) -> str:
    """The sources of its data, where this workspace still holds the bundle."""
    if bundle is None:
        return "–"
    sources = bundle.details.get("data", {}).get("details", {}).get("sources", [])
    return ", ".join(str(each["source"]) for each in sources) or "–"
