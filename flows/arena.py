"""Flow ``arena``: models write to the same prompts, and a judge says who did better."""

from typing import Any

from components.core.artifact import Artifact
from components.core.errors import InputError
from components.core.inputs import files_fingerprint
from components.evaluation.arena.artifact import Arena
from components.evaluation.arena.config import player_name
from flows.catalogue import flow
from flows.compare import several_models
from flows.evaluation import Subject, find_subject, show_report
from flows.prepare import prepare_data
from flows.run import FlowRun, Stage

ARENA = Stage("arena", "components.evaluation.arena.stage:stage")


@flow(
    "models against each other on the same prompts, with a judge: arena champion challenger",
    example="arena.models=[champion,challenger]",
    order=67,
    own="arena",
    words="arena.models",
)
def arena(run: FlowRun) -> None:
    """Let models write to the same prompts and have every pair judged: by the facts of the closed world, or by a model.

    The report gives each model's strength (Bradley-Terry), and how often it would win with texts of the same length.
    """
    subjects = [find_subject(model, run.config.tracking) for model in several_models(run.config.arena.models)]
    _require_different(subjects)
    players: dict[str, Any] = {
        player_name(place): subject.artifact for place, subject in enumerate(subjects) if subject.artifact is not None
    }
    result = run.stage(
        ARENA,
        run.config.arena_of([(subject.name, subject.place) for subject in subjects]),
        prepared=_world(run),
        sources=_read(run, subjects),
        **players,
    )
    show_report(run, result, Arena.PAGE, "arena", "Models against each other")


def _world(run: FlowRun) -> Artifact | None:
    """The data, where its closed world gives the prompts or judges; otherwise nothing has to be prepared."""
    settings = run.config.arena
    return prepare_data(run) if not settings.prompts or settings.judge.kind == "local" else None


def _read(run: FlowRun, subjects: list[Subject]) -> dict[str, str]:
    """Digests of what the stage reads from outside."""
    folders = {
        f"{player_name(place)} {name}": digest
        for place, subject in enumerate(subjects)
        for name, digest in subject.sources.items()
    }
    return {**folders, **files_fingerprint(run.config.arena.prompts)}


def _require_different(subjects: list[Subject]) -> None:
    names = [subject.name for subject in subjects]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InputError(f"{twice[0]} is there twice, under two references: a model meets others")
