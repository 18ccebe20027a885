"""Who annotates: the exact labels of the closed world, a trained pipeline, or a rule that needs nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from components.core.errors import InputError
from components.labelling.annotators import calculations, capitals, world
from components.labelling.annotators.base import Annotator
from components.labelling.annotators.calculations import Calculations
from components.labelling.annotators.capitals import Capitals
from components.labelling.annotators.control import Control
from components.labelling.annotators.pipeline import Pipeline, PipelineRecord, SpacyAnnotator
from components.labelling.annotators.rules import ParseRules
from components.labelling.annotators.world import WorldAnnotator
from components.labelling.config import CONTROLS, ControlRules, LabelConfig
from components.labelling.installed import installed_pipeline


@dataclass(frozen=True)
class Choice:
    """The annotator of a run, and the reason for it. It is sent to worker processes, each of which opens its own."""

    name: str
    """``world``, ``spacy``, ``capitals``, ``calculations`` or ``control``."""
    rules: str
    """Its rules."""
    reason: str
    others: str = ""
    """Annotator of the documents of a mixed corpus that do not belong to the closed world."""
    pipeline: str = ""
    documents: Path | None = None
    """The closed world's documents, where the data holds them."""
    parse_rules: ParseRules = "ner+pos"

    def open(self) -> tuple[Annotator, PipelineRecord | None]:
        """The annotator, ready for texts; raises ``InputError`` if it cannot be opened."""
        if self.name == "control":
            return Control(cast(ControlRules, self.rules)), None
        if self.name == "world":
            assert self.documents is not None, self
            others, record = self._open(self.others) if self.others else (None, None)
            return WorldAnnotator(self.documents, others), record
        return self._open(self.name)

    def _open(self, name: str) -> tuple[Annotator, PipelineRecord | None]:
        if name == "capitals":
            return Capitals(), None
        if name == "calculations":
            return Calculations(), None
        pipeline = Pipeline(self.pipeline, [self.parse_rules])
        return SpacyAnnotator(pipeline, self.parse_rules), pipeline.record


def choose(cfg: LabelConfig, documents: Path | None, *, only_world: bool = False) -> Choice:
    """Who annotates under ``cfg``, given the closed world's ``documents.jsonl`` if the data holds one.

    ``only_world``: the data is nothing else, so that no pipeline is looked for.

    Raises ``InputError`` where ``label.annotator=world`` is asked for and there is no closed world.
    """
    if cfg.rules in CONTROLS:
        reason = f"label.rules={cfg.rules} reads no annotation"
        return Choice("control", cfg.rules, reason, pipeline=cfg.pipeline, documents=documents)
    if cfg.annotator == "world" and documents is None:
        raise InputError(
            "label.annotator=world needs the closed world, and the prepared data holds none: set data.sources=[world], "
            "or label.annotator=auto"
        )
    pipeline, real_text, why = _for_real_text(cfg, only_world)
    name: str = cfg.annotator
    reason = f"label.annotator={cfg.annotator}"
    if name == "auto" and documents is not None:
        name, reason = "world", "the data is the closed world, whose facts are known exactly"
    elif name == "auto":
        name, reason = real_text, why
    own = {"world": world.RULE, "capitals": capitals.RULE, "calculations": calculations.RULE}
    rules = own.get(name, cfg.rules)
    others = real_text if name == "world" and cfg.annotator == "auto" else ""
    return Choice(name, rules, reason, others, pipeline, documents, cast(ParseRules, cfg.rules))


def _for_real_text(cfg: LabelConfig, only_world: bool) -> tuple[str, str, str]:
    """The pipeline, who annotates what is not of the closed world, and why."""
    if cfg.pipeline:
        return cfg.pipeline, "spacy", f"label.pipeline names {cfg.pipeline}"
    installed = installed_pipeline(cfg.rules) if cfg.annotator == "auto" and not only_world else None
    if installed is not None:
        reason = f"{installed.name} {installed.version} is installed; label.pipeline chooses another"
        return installed.name, "spacy", reason
    return "", "capitals", "no trained English spaCy pipeline is named or installed"
