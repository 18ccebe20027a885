"""Stage ``evaluate``: any model on any tasks, as a table of scores and a report.

The work is done in pieces, each of which is kept, so that an evaluation which was killed goes on where it was and
several processes may work in one folder.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from components.core.acceptance import accepted_section
from components.core.artifact import CHECKPOINTS, REPORT
from components.core.atomic import write_text
from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.evaluation.aggregates import aggregates
from components.evaluation.artifacts import Evaluation
from components.evaluation.contamination.seen_tasks import learnt_from, seen_task_scores
from components.evaluation.cost import measured
from components.evaluation.evaluate_config import EvaluateStageConfig
from components.evaluation.evaluation_report import headlines, sections
from components.evaluation.harness.aggregate import aggregate
from components.evaluation.harness.suite import HarnessSuite
from components.evaluation.report_page import markdown, page
from components.evaluation.robustness.suite import TASKS, RobustnessSuite
from components.evaluation.score_table import Piece, Score, complete, rows, write_scores
from components.evaluation.suites import NamedSuite, Suite, by_suite
from components.evaluation.text import gathered
from components.evaluation.text import suite as text_suite
from components.evaluation.text_models.base import TextModel
from components.evaluation.text_models.opened import opened
from components.evaluation.text_models.ours import LacewingModel
from components.evaluation.texts import room_for_sources
from components.model.bundle import Bundle
from components.training.trained import TrainedModel

PARTS = "parts"
_NOT_IN_A_NAME = re.compile(r"[^\w .\-/]")
_ROWS = 3


def stage(
    run: Run,
    config: EvaluateStageConfig,
    *,
    bundle: Bundle | None = None,
    trained: TrainedModel | None = None,
    prepared: PreparedData | None = None,
) -> Evaluation:
    """Evaluate the model on ``config.evaluate.tasks``.

    Metrics: the value of every metric of every task, and the expected calibration error. Raises ``InputError`` for an
    unknown task or a text that cannot be read, ``ArtifactError`` for a model that is damaged or gives no finite number,
    ``ServiceError`` for a server that does not answer: what was scored until then is kept.

    Arguments:
        run: where the table and the report go; pieces that its folder holds are not made again.
        config: the model, unless it is one of the artifacts, and the tasks.
        bundle: the model, as it is served.
        trained: the model of a training, without a helper.
        prepared: the questions of robustness, if it is a closed world; published tasks are looked for in its training
            text if the model learnt from it.
    """
    kept = run.folder / CHECKPOINTS
    with opened(config.evaluate, bundle, trained) as model, room_for_sources(kept) as room:
        pieces = _pieces(model, config, room, prepared, own=bundle or trained)
        table = complete(kept / PARTS, pieces, run.report)
        name = model.name
    scores = rows(table)
    _check_finite(name, scores)
    write_scores(run.folder / Evaluation.SCORES, table)
    task_files = config.evaluate.harness.tasks
    figures = aggregates(scores)
    title, parts = f"How good {name} is", sections(scores, figures, task_files)
    write_text(run.folder / REPORT, markdown(title, parts) + accepted_section(run.accepted))
    write_text(run.folder / Evaluation.PAGE, page(title, parts))
    centred = aggregate(scores, task_files)
    metrics = {"published tasks centred": centred[name]} if name in centred else {}
    metrics |= {_NOT_IN_A_NAME.sub("_", name): value for name, value in headlines(figures).items()}
    run.log(metrics, None)
    run.report(1.0, f"{len(scores):,} scores")
    details = {"model": name, "tasks": config.evaluate.tasks, "rows": len(scores)}
    return run.seal(metrics, details, _shown(metrics), view=Evaluation)


def suites(model: TextModel, config: EvaluateStageConfig, room: Path, prepared: PreparedData | None) -> Sequence[Suite]:
    """All tasks that there are."""
    documents = config.evaluate.text.documents
    held_out = documents == "held_out" or (documents == "auto" and isinstance(model, LacewingModel))
    robustness = RobustnessSuite(prepared)
    return [
        text_suite(lambda: gathered(config, room, held_out)),
        NamedSuite(tuple(TASKS), lambda model, tasks, _: robustness.pieces(model, tasks, config.evaluate.robustness)),
        HarnessSuite(config.evaluate.harness),
    ]


def _pieces(
    model: TextModel,
    config: EvaluateStageConfig,
    room: Path,
    prepared: PreparedData | None,
    own: Bundle | TrainedModel | None,
) -> Mapping[str, Piece]:
    found: dict[str, Piece] = {}
    for suite, tasks in by_suite(suites(model, config, room, prepared), config.evaluate.tasks):
        found |= {name: measured(piece, name) for name, piece in suite.pieces(model, tasks, config).items()}
        if isinstance(suite, HarnessSuite) and prepared is not None and own is not None and learnt_from(own, prepared):
            settings = config.evaluate.harness, prepared, config.evaluate.contamination
            found["contamination"] = partial(seen_task_scores, model.name, tasks, *settings)
    return found


def _check_finite(name: str, scores: Sequence[Score]) -> None:
    bad = next((row for row in scores if not abs(row.score) < float("inf")), None)  # also false for NaN
    if bad is not None:
        raise ArtifactError(
            f"the model {name} has no finite {bad.metric} on {bad.document} of {bad.task} ({bad.score}): its training "
            "diverged, or its weights are damaged"
        )


def _shown(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(name, f"{value:.4g}") for name, value in list(metrics.items())[:_ROWS]]
