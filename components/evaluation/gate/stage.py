"""Stage ``gate``: may the challenger take the champion's place?

Both are judged as they are served, with their own helper, tokenizer and call budget, on the same held-out documents of
the challenger's corpus, on the same questions and on texts about the same subjects. ``verdict`` says who wins.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.core.acceptance import accepted_section
from components.core.artifact import REPORT
from components.core.atomic import replacing, write_text
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.sources import PYDOC, WORLD
from components.data.world.comprehension import World
from components.evaluation.artifacts import GateDecision
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.config import GateConfig
from components.evaluation.gate.contamination import contamination
from components.evaluation.gate.documents import Document, held_out_documents
from components.evaluation.gate.evidence import Evidence, measure
from components.evaluation.gate.report import gate_report
from components.evaluation.gate.served import HelperMissingError, served
from components.evaluation.gate.verdict import Verdict, decide
from components.evaluation.progress import progress
from components.evaluation.questions import Question, read_questions
from components.labelling.artifact import Labels
from components.model.bundle import Bundle

CHALLENGER, CHAMPION = "challenger", "champion"


def stage(
    run: Run,
    config: GateConfig,
    *,
    bundle: Bundle,
    prepared: PreparedData,
    labels: Labels | None = None,
    champion: Bundle | None = None,
) -> GateDecision:
    """Decide whether the model in ``bundle`` may be promoted over ``champion``.

    Details: ``promote``, ``outcome`` and ``reason``. A refusal is a result, not an error. The evidence is kept example
    by example. Raises ``ArtifactError`` if a bundle is damaged.

    Arguments:
        run: where the verdict goes.
        config: the criteria, and how much is measured.
        bundle: the challenger.
        prepared: its data, whose test split both are judged on.
        labels: which tokens of it state facts; without them nothing is said about facts and calls.
        champion: the model that is served now; ``None``: there is none.
    """
    evidence: dict[str, Evidence] = {}
    verdict = _other_corpus(bundle, champion, config)
    if verdict is None:
        subjects = _subjects(prepared, labels, config)
        try:
            measured = _measured(run, config, bundle, subjects, CHALLENGER, 0.0, 0.5 if champion else 0.98)
            seen = contamination(prepared, subjects.documents, subjects.questions, config)
            evidence[CHALLENGER] = {**measured, **seen}
        except HelperMissingError as error:
            verdict = Verdict(outcome="refuse", reason=str(error), documents=0)
    if verdict is None and champion is not None:
        try:
            evidence[CHAMPION] = _measured(run, config, champion, subjects, CHAMPION, 0.5, 0.98)
        except HelperMissingError as error:
            reason = f"the champion cannot be judged as it is served: {error}. Start its helper and run again"
            verdict = Verdict(outcome="hold", reason=reason, documents=0)
    if verdict is None:
        verdict = decide(evidence[CHALLENGER], evidence.get(CHAMPION), config)
    return _sealed(run, _with_acceptances(run, verdict), evidence)


@dataclass(frozen=True)
class _Subjects:
    """What both models are tried on."""

    documents: list[Document]
    questions: list[Question]
    world: World | None


def _subjects(prepared: PreparedData, labels: Labels | None, cfg: GateConfig) -> _Subjects:
    return _Subjects(
        held_out_documents(prepared, labels, cfg),
        read_questions(prepared.questions, cfg.questions) if prepared.questions is not None else [],
        World.load(prepared.fact_table) if prepared.fact_table is not None else None,
    )


def _measured(
    run: Run, cfg: GateConfig, bundle: Bundle, subjects: _Subjects, name: str, begin: float, end: float
) -> Evidence:
    device: torch.device = scoring_device(cfg.device)
    with (
        served(bundle, device) as model,
        autocast(device, cfg.precision),
        progress(run, f"judging the {name}", begin, end) as report,
    ):
        return measure(model, subjects.documents, subjects.questions, subjects.world, cfg, report)


def _other_corpus(bundle: Bundle, champion: Bundle | None, cfg: GateConfig) -> Verdict | None:
    """A verdict without measurement where the two models learnt from different sources."""
    if champion is None or cfg.other_corpus == "compare":
        return None
    own, other = _sources(bundle.details), _sources(champion.details)
    if not own or not other or own == other or set(other) <= {WORLD, PYDOC}:  # those two are demonstrations
        return None
    return Verdict(
        outcome="refuse",
        documents=0,
        reason=(
            f"the champion learnt from {', '.join(other)}, this model from {', '.join(own)}: on held-out text of one "
            "corpus, the model of the other looks worse than it is. Register it under another name "
            "(tracking.registered_model), or compare all the same with release.gate.other_corpus=compare"
        ),
    )


def _sources(details: Mapping[str, Any]) -> list[str]:
    """The names of the sources of a bundle's data; empty for bundles that do not say."""
    listed = details.get("data", {}).get("details", {}).get("sources", [])
    return sorted({str(each["source"]) for each in listed})


def _with_acceptances(run: Run, verdict: Verdict) -> Verdict:
    """Whoever reads the reason must know what the comparison rests on."""
    if not run.accepted:
        return verdict
    return verdict.model_copy(update={"reason": "; ".join([verdict.reason, *map(str, run.accepted)])})


def _sealed(run: Run, verdict: Verdict, evidence: Mapping[str, Evidence]) -> GateDecision:
    write_text(run.folder / GateDecision.DECISION, verdict.model_dump_json(indent=2) + "\n")
    write_text(run.folder / REPORT, gate_report(verdict) + accepted_section(run.accepted))
    with replacing(run.folder / GateDecision.SCORES) as temporary:
        pq.write_table(pa.Table.from_pylist(list(_rows(evidence)), _SCHEMA), temporary)  # type: ignore[no-untyped-call]
    run.log(verdict.metrics, None)
    run.report(1.0, verdict.reason)
    details = {"promote": verdict.promote, "outcome": verdict.outcome, "reason": verdict.reason}
    return run.seal(verdict.metrics, details, view=GateDecision)


_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("metric", pa.string()),
        ("example", pa.string()),
        ("numerator", pa.float64()),
        ("denominator", pa.float64()),
    ]
)


def _rows(evidence: Mapping[str, Evidence]) -> Iterator[dict[str, Any]]:
    """The table of the evidence: a row for each model, metric and example."""
    for model, measures in evidence.items():
        for metric, each in measures.items():
            for example, above, below in zip(each.examples, each.numerator, each.denominator, strict=True):
                yield {
                    "model": model,
                    "metric": metric,
                    "example": example,
                    "numerator": float(above),
                    "denominator": float(below),
                }
