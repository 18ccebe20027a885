"""Flow ``evaluate``: any model on any tasks. (A module called ``evaluate`` would hide the package of that name.)"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.core.artifact import Artifact
from components.core.inputs import folder_digest
from components.data.prepared import PreparedData
from components.data.sources import fingerprint
from components.evaluation.artifacts import Evaluation
from components.evaluation.evaluate_config import EvaluateConfig
from components.evaluation.harness.fingerprint import sources
from components.evaluation.text_models.opened import address, title
from components.labelling.fingerprint import pipeline_fingerprint
from components.model.bundle import Bundle
from conf.services import TrackingConfig
from flows.adapters import prefect_ui
from flows.adapters.mlflow_web import file_link
from flows.catalogue import flow
from flows.named_models import artifact_with_model, is_version, registry_of
from flows.prepare import prepare_data
from flows.run import FlowRun, Stage
from flows.workspace import artifacts_with_content

ROBUSTNESS = "robustness."
EVALUATE = Stage("evaluate", "components.evaluation.evaluate:stage")


@dataclass(frozen=True)
class Subject:
    """A model to evaluate."""

    name: str
    """As tables call it; empty leaves it to the stage."""
    artifact: Artifact | None = None
    """A bundle, or the artifact of a training."""
    place: str = ""
    """Otherwise, the folder or the address."""
    sources: dict[str, str] = field(default_factory=dict)
    """Digest of the folder, by the setting that names it."""


def find_subject(reference: str, tracking: TrackingConfig) -> Subject:
    """What is meant by an alias, a version, ``NAME@ALIAS``, a folder or an address.

    Raises ``InputError`` if it is none of these, and ``ArtifactError`` if the files of a registered model were altered.
    """
    if (served := address(reference)) is not None:
        return Subject(served[1], place=reference)
    folder = Path(reference).expanduser().absolute()
    if folder.is_dir() and not is_version(reference):
        return _in_folder(folder)
    registry, version = registry_of(reference, tracking)
    bundle = registry.resolve(version)
    found = registry.version(version)
    return Subject(f"{registry.name} {found.number}" if found else title(bundle), bundle)


def _in_folder(folder: Path) -> Subject:
    artifact = artifact_with_model(folder, "evaluate.model")
    if artifact is None:
        return Subject(folder.name, place=str(folder), sources={"evaluate.model": folder_digest(folder)})
    return Subject(title(artifact), artifact)


def evaluate_model(run: FlowRun, reference: str) -> Artifact:
    """The table of scores of one model on ``evaluate.tasks``; its report is shown in Prefect and kept in MLflow."""
    subject = find_subject(reference, run.config.tracking)
    config = run.config.evaluation(subject.place, run.config.evaluate.name or subject.name)
    texts = {}
    if "text" in config.evaluate.tasks:
        texts = {**fingerprint(config.data), **pipeline_fingerprint(config.label, config.data.sources)}
    published = sources(config.evaluate.tasks, config.evaluate.harness)
    prepared = _data(run, subject, config.evaluate, published)
    bundled = subject.artifact is not None and subject.artifact.stage in Bundle.stages
    scores = run.stage(
        EVALUATE,
        config,
        bundle=subject.artifact if bundled else None,
        trained=None if bundled else subject.artifact,
        prepared=prepared,
        sources={**subject.sources, **texts, **published},
    )
    show_report(run, scores, Evaluation.PAGE, "evaluation-report", "How good the model is")
    return scores


def show_report(run: FlowRun, artifact: Artifact, page: str, key: str, description: str) -> None:
    """Show the report in Prefect, with a link to it as one file, ``page``; a dry run has none."""
    if run.dry:
        return
    link = file_link(run.config.tracking, artifact.folder, page)
    head, _, rest = artifact.report.read_text(encoding="utf-8").partition("\n\n")
    prefect_ui.page(key, f"{head}\n\nAs one file: {link}\n\n{rest}", description)
    run.rows.append(("report", str(artifact.folder / page)))


def _data(run: FlowRun, subject: Subject, cfg: EvaluateConfig, published: Mapping[str, str]) -> Artifact | None:
    """Where robustness finds its questions, and contamination the text that the model learnt from; if needed."""
    asks_the_world = any(task.startswith(ROBUSTNESS) for task in cfg.tasks) and not cfg.robustness.files
    if not published and not asks_the_world:
        return None
    content = subject.artifact.record.identity.inputs.get("prepared") if subject.artifact is not None else None
    own = [each for each in artifacts_with_content([content] if content else []) if each.stage in PreparedData.stages]
    if asks_the_world and not (own and PreparedData.open(own[-1].folder).fact_table):
        return prepare_data(run)  # its own data is no closed world
    if own:
        return own[-1]
    if subject.artifact is not None and not run.dry:
        run.rows.append(("contamination", "not measured: the data of this model is not in this workspace"))
    return None


@flow(
    "measure any model on any tasks or texts",
    example="tasks=[text]",
    order=65,
    own="evaluate",
)
def evaluate(run: FlowRun) -> None:
    """Score a registered model, an artifact, a Hugging Face folder or a served model; nothing is trained."""
    evaluate_model(run, run.config.evaluate.model)
