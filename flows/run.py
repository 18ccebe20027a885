"""A run of a flow: its configuration, the stages it needs, and their outcomes.

A leaf, on which the rest of ``flows`` builds. How a stage is brought up to date is left to a ``StageRunner``:
``flows.stage`` runs what is missing, ``flows.plan`` only says what would run.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from components.core.acceptance import Acceptance, joined
from components.core.artifact import Artifact
from conf.compose import DEFAULT_PRESET, digest
from conf.schema import ProjectConfig

Row = tuple[str, str]
Watch = Callable[[str, Mapping[str, Any]], None]
"""Hears the stage and every event of it; what it raises stops the stage."""


def _unwatched(stage: str, event: Mapping[str, Any]) -> None:
    pass


@dataclass(frozen=True)
class Stage:
    """What to run: ``function`` as ``module:name``, and how often a crash is retried."""

    name: str
    function: str
    retries: int = 1


@dataclass(frozen=True)
class StageCall:
    """A stage with everything that decides its result, as a flow asks for it."""

    stage: Stage
    config: BaseModel
    inputs: Mapping[str, Artifact]
    """By the name of the stage function's parameter."""
    sources: Mapping[str, str]
    """Content digests of what the stage reads from outside, by name."""
    title: str
    """The stage as people see it: with its variant, if there is one."""
    made_by: str = ""
    """The command that makes the result, if this flow must find it made already."""
    accepted: tuple[Acceptance, ...] = ()
    """What people have vouched for among the artifacts that the inputs are made from."""
    watch: Watch = _unwatched
    """Hears the events of the stage while it runs."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one stage in one flow."""

    artifact: Artifact
    status: Literal["ran", "skipped", "planned"]
    reason: str
    seconds: float


@dataclass(frozen=True)
class Release:
    """The outcome of the gate for a model."""

    model: str
    version: int
    alias: str
    promoted: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class StageRunner(Protocol):
    """Brings stages up to date, or says which would run."""

    def bring_up_to_date(self, call: StageCall) -> Outcome: ...


@dataclass
class FlowRun:
    """One execution of a flow."""

    flow: str
    preset: str
    overrides: list[str]
    config: ProjectConfig
    runner: StageRunner
    dry: bool = False
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By stage; where a flow runs a stage several times, by stage and variant."""
    rows: list[Row] = field(default_factory=list)
    """Rows that the flow itself adds to the closing table."""
    release: Release | None = None
    variant: str = ""
    """What sets the stages that run now apart from others of the same name; see ``varied``."""
    made_by: str = ""
    """The command that makes the stages which this flow only uses; see ``only_using``."""
    watch: Watch = _unwatched
    """Hears the events of the stages that run now; see ``watched``."""
    accepted: dict[str, tuple[Acceptance, ...]] = field(default_factory=dict)
    """What people have vouched for, by key of the artifact that rests on it.

    Records alone would not do: what was made before the acceptance is skipped, and its record says nothing of it.
    """

    @property
    def config_digest(self) -> str:
        return digest(self.config)

    @property
    def artifacts(self) -> list[Artifact]:
        """The results of the stages, in order; those that run in several variants are left out."""
        return [outcome.artifact for title, outcome in self.outcomes.items() if title == outcome.artifact.stage]

    def stage(
        self, stage: Stage, config: BaseModel, *, sources: Mapping[str, str] | None = None, **inputs: Artifact | None
    ) -> Artifact:
        """Bring ``stage`` up to date and return its artifact.

        Args:
            stage: what to run.
            config: its slice of the configuration; with the inputs and the code it decides the key.
            sources: content digests of what the stage reads from outside, by name.
            inputs: artifacts of earlier stages by the name of the stage's parameter; ``None`` is left out.
        """
        given = {name: artifact for name, artifact in inputs.items() if artifact is not None}
        title = f"{stage.name} {self.variant}".rstrip()
        accepted = joined(*(self._accepted_for(artifact) for artifact in given.values()))
        call = StageCall(stage, config, given, sources or {}, title, self.made_by, accepted, self.watch)
        outcome = self.runner.bring_up_to_date(call)
        self.outcomes[title] = outcome
        self.accepted[outcome.artifact.key] = joined(accepted, outcome.artifact.record.accepted)
        return outcome.artifact

    def _accepted_for(self, artifact: Artifact) -> tuple[Acceptance, ...]:
        return self.accepted.get(artifact.key, tuple(artifact.record.accepted))

    @contextmanager
    def varied(self, variant: str, config: ProjectConfig) -> Iterator[None]:
        """Within the block, stages take their settings from ``config``, and their outcomes carry ``variant``."""
        before = self.config, self.variant
        self.config, self.variant = config, variant
        try:
            yield
        finally:
            self.config, self.variant = before

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """Within the block, ``watch`` hears the events of every stage that runs; what it raises stops the stage."""
        before, self.watch = self.watch, watch
        try:
            yield
        finally:
            self.watch = before

    @contextmanager
    def only_using(self, flow: str) -> Iterator[None]:
        """Within the block, stages must be up to date already; if one is not, the error names ``flow``."""
        options = [] if self.preset == DEFAULT_PRESET else [f"experiment={self.preset}"]
        self.made_by = shlex.join(["lacewing", flow, *options, *self.overrides])
        try:
            yield
        finally:
            self.made_by = ""
