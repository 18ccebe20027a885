"""Stage ``cascade``: what asking is worth, over all call budgets, on held-out text and in what the model writes itself.

The delegated model is compared with the plain one that it was trained from, which calls where it is uncertain (by
entropy) at the same budgets. Every result is compared with the bound, where all calls are placed on facts that the
model would get wrong.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from components.cascade.calibration import CALIBRATION, Calibration
from components.cascade.config import CallScore
from components.cascade.decoding import Cascade
from components.cascade.helpers import Helper, open_helper
from components.core.artifact import Artifact
from components.core.atomic import write_text
from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.shards import ShardSet, Split
from components.data.tokenizer import TextTokenizer, tokenizer_digest
from components.data.world.comprehension import World
from components.delegation.config import SELECTIONS_THAT_CALL
from components.delegation.positions import calibrated, score_positions
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.config import CascadeAssessConfig
from components.evaluation.factuality.attribution_image import draw_texts
from components.evaluation.factuality.calls import auroc, call_points
from components.evaluation.factuality.curve import Curves, draw_budget_curve
from components.evaluation.factuality.factscore import run_factscore
from components.evaluation.factuality.generated import Biography, fact_scores, subjects, write_biographies
from components.evaluation.factuality.helper_accuracy import ask_helper
from components.evaluation.factuality.predictions import Predictions, predict
from components.evaluation.factuality.probes import run_probes
from components.evaluation.factuality.real_text_report import factscore_section, probes_section
from components.evaluation.factuality.report import (
    CURVE_PNG,
    CURVE_SVG,
    REPORT,
    RESULTS,
    TEXTS,
    TEXTS_PNG,
    TEXTS_SHOWN,
    cascade_report,
    texts_page,
)
from components.evaluation.factuality.results import (
    CascadeResults,
    Cost,
    ModelResults,
    Written,
)
from components.evaluation.factuality.subset_likelihood import bits_per_byte
from components.evaluation.heldout import chosen, held_out
from components.evaluation.progress import progress
from components.evaluation.questions import answer_questions, read_questions
from components.labelling.labels import FactBits
from components.model.checkpoint import load_model
from components.model.transformer import Transformer

FACT_TABLE = "raw/world/facts.jsonl"
QUESTIONS = "raw/world/questions.jsonl"
BIOGRAPHIES = "biographies.jsonl"
LEAKAGE_QUESTIONS = 300
HANDOVERS = 200
# Calibration of the plain model, for calls by entropy; the delegated model has its own.
_CALIBRATION_TOKENS = 30_000


@dataclass(frozen=True)
class _Data:
    """The data that both models are measured on."""

    folder: Path
    tokenizer: TextTokenizer
    shards: ShardSet
    split: Split
    documents: list[int]
    labels: FactBits
    helper: Helper
    world: World | None


def stage(
    run: Run,
    cfg: CascadeAssessConfig,
    delegated: Artifact,
    calibrated_model: Artifact,
    prepared: Artifact,
    labels: Artifact,
    *plain: Artifact,
) -> Artifact:
    """Measure the model in ``delegated`` with the helper of ``cfg.cascade``, beside the ``plain`` model if given.

    Writes ``facts.json``, ``report.md``, ``curve.png``, ``curve.svg``; on the closed world ``biographies.jsonl``,
    ``texts.html`` and ``texts.png``.
    Raises ``ServiceError`` if the helper cannot be reached at the start.
    """
    data = _opened(run, cfg, prepared, labels)
    try:
        settings = delegated.details["delegation"]
        score: CallScore = "call" if settings["selection"] in SELECTIONS_THAT_CALL else "entropy"
        calibration = Calibration.load(calibrated_model.path(CALIBRATION))
        model, texts, predictions = _measured(run, cfg, data, delegated, score, calibration, 0.0, 0.5)
        baseline = _measured(run, cfg, data, plain[0], "entropy", None, 0.5, 0.9)[0] if plain else None
        asking = predictions.call if score == "call" else predictions.entropy
        with progress(run, "asking the helper at gold text", 0.9, 0.98):
            helper_accuracy = ask_helper(
                data.helper, data.tokenizer, data.split, data.documents, predictions, asking, cfg.cascade, HANDOVERS
            )
        results = CascadeResults(
            selection=settings["selection"],
            match=settings["match"],
            normalisation=settings["normalisation"],
            seed=int(delegated.record.identity.config["trainer"]["seed"]),
            helper=data.helper.name,
            budget=cfg.cascade.budget,
            positions=len(predictions),
            factual_share=float(predictions.factual.mean()),
            confidence=cfg.facts.confidence,
            model=model,
            plain=baseline,
            helper_accuracy=helper_accuracy,
            cost=_cost(delegated, labels),
        )
    finally:
        data.helper.close()
    write_text(run.folder / RESULTS, results.model_dump_json(indent=2) + "\n")
    if texts:
        lines = (json.dumps(text.model_dump(), ensure_ascii=False) + "\n" for text in texts)
        write_text(run.folder / BIOGRAPHIES, "".join(lines))
        write_text(run.folder / TEXTS, texts_page(texts))
        draw_texts(texts[:TEXTS_SHOWN], [run.folder / TEXTS_PNG])
    draw_budget_curve(_lines(results), results.budget, [run.folder / CURVE_PNG, run.folder / CURVE_SVG])
    write_text(run.folder / REPORT, cascade_report(results, texts, CURVE_PNG, _real_text(results)))
    metrics = _metrics(results)
    run.log(metrics, None)
    run.report(1.0, f"facts right: {model.curve[0].accuracy:.1%} alone, {model.at_budget.accuracy:.1%} with calls")
    return run.seal(
        metrics, {"selection": results.selection, "helper": results.helper, "score": score, "seed": results.seed}
    )


def _opened(run: Run, cfg: CascadeAssessConfig, prepared: Artifact, labels: Artifact) -> _Data:
    folder = prepared.path("tokenizer")
    shards = ShardSet.open(prepared.path("shards"))
    split = held_out(shards)
    facts = prepared.folder / FACT_TABLE
    helper = open_helper(
        cfg.cascade.helper,
        tokenizer=folder,
        facts=facts if facts.exists() else None,
        corpus=prepared.folder,
        index=run.folder / "retrieval",
        device=str(scoring_device(cfg.facts.device)),
    )
    return _Data(
        prepared.folder,
        TextTokenizer.load(folder),
        shards,
        split,
        chosen(split.documents[:, 1], split.n_documents, cfg.facts.max_tokens).tolist(),
        FactBits.open(labels.path("facts"), shards, tokenizer_digest(folder)),
        helper,
        World.load(facts) if facts.exists() else None,
    )


def _measured(
    run: Run,
    cfg: CascadeAssessConfig,
    data: _Data,
    artifact: Artifact,
    score: CallScore,
    calibration: Calibration | None,
    begin: float,
    end: float,
) -> tuple[ModelResults, list[Biography], Predictions]:
    """One model: on gold text, alone, and as a cascade."""
    device = scoring_device(cfg.facts.device)
    model = load_model(artifact.verify().path("model"), device)
    prefix = "" if artifact.stage == "delegate" else "plain_"
    at = [begin + (end - begin) * part for part in (0.0, 0.3, 0.6, 0.7, 1.0)]
    with (
        autocast(device, cfg.facts.precision),
        progress(run, f"{artifact.stage}: trying every call", at[0], at[1]) as report,
    ):
        predictions = predict(
            model, data.tokenizer, data.split, data.documents, data.labels, cfg.facts.batch_tokens, report
        )
        if calibration is None:
            calibration = _calibration(model, data)
    if not np.isfinite(predictions.nats).all():
        raise ArtifactError(f"the model in {artifact.folder} gives no finite likelihood to text: its training diverged")
    asking = predictions.call if score == "call" else predictions.entropy
    settings = cfg.cascade.model_copy(update={"call_score": score})
    # One rule for all texts: methods compare at equal calls, however long their texts turn out.
    cascade = Cascade(model, data.tokenizer, data.helper, calibration, settings, shared_rule=True)
    alone, asked, texts = _written(run, cfg, data, cascade, at[1], at[2])
    with progress(run, f"{artifact.stage}: asking for facts with calls forbidden", at[2], at[3]):
        leakage = _leakage(model, data)
    results = _findings(cfg, predictions, asking, score, leakage, alone, asked)
    return _with_real_text(run, cfg, data, cascade, prefix, results, at[3], at[4]), texts, predictions


def _calibration(model: Transformer, data: _Data) -> Calibration:
    ids = data.tokenizer
    split = data.shards.splits["validation"]
    return calibrated(score_positions(model, split, data.labels, ids.end_of_text_id, ids.call_id, _CALIBRATION_TOKENS))


def _written(
    run: Run, cfg: CascadeAssessConfig, data: _Data, cascade: Cascade, begin: float, end: float
) -> tuple[Written | None, Written | None, list[Biography]]:
    if data.world is None or not cfg.facts.biographies:
        return None, None, []
    names = subjects(data.world, cfg.facts.biographies)
    length, half = cfg.facts.biography_tokens, (begin + end) / 2
    with progress(run, "writing biographies alone", begin, half) as report:
        alone = write_biographies(cascade, data.world, data.tokenizer, names, 0.0, length, report)
    with progress(run, "writing biographies as a cascade", half, end) as report:
        asked = write_biographies(cascade, data.world, data.tokenizer, names, cfg.cascade.budget, length, report)
    return fact_scores(alone, cfg.facts), fact_scores(asked, cfg.facts), asked


def _with_real_text(
    run: Run,
    cfg: CascadeAssessConfig,
    data: _Data,
    cascade: Cascade,
    prefix: str,
    results: ModelResults,
    begin: float,
    end: float,
) -> ModelResults:
    """Add what the settings ask for about real entities and real people."""
    half = (begin + end) / 2
    if cfg.facts.probes.files:
        answers = run.folder / f"{prefix}probe_answers.jsonl"
        with progress(run, "asking about real entities", begin, half) as report:
            probes = run_probes(cascade, data.tokenizer, cfg.facts.probes, cfg.facts, answers, report)
        results = results.model_copy(update={"probes": probes})
    if cfg.facts.factscore.entities:
        responses = run.folder / f"{prefix}responses.jsonl"
        with progress(run, "writing about real people", half, end) as report:
            score = run_factscore(cascade, data.tokenizer, cfg.facts.factscore, cfg.facts, responses, report)
        results = results.model_copy(update={"factscore": score})
    return results


def _leakage(model: Transformer, data: _Data) -> float | None:
    if not (data.folder / QUESTIONS).exists():
        return None
    answers = answer_questions(model, data.tokenizer, read_questions(data.folder / QUESTIONS, LEAKAGE_QUESTIONS))
    return sum(answer.expected.casefold() in answer.written.casefold() for answer in answers) / max(1, len(answers))


def _findings(
    cfg: CascadeAssessConfig,
    predictions: Predictions,
    asking: Float[np.ndarray, " positions"],
    score: CallScore,
    leakage: float | None,
    alone: Written | None,
    cascade: Written | None,
) -> ModelResults:
    budgets = sorted({0.0, *cfg.facts.budgets, cfg.cascade.budget})
    points = call_points(predictions, asking, budgets)
    at_budget = next(point for point in points if point.budget == cfg.cascade.budget)
    return ModelResults(
        score=score,
        bits_per_byte=bits_per_byte(predictions),
        curve=points,
        at_budget=at_budget,
        gain_of_bound=at_budget.gain_of_bound(points[0].accuracy),
        auroc_wrong_fact=auroc(asking, predictions.wrong_facts),
        auroc_wrong=auroc(asking, ~predictions.right),
        auroc_wrong_among_facts=auroc(asking[predictions.factual], predictions.wrong_facts[predictions.factual]),
        leakage=leakage,
        alone=alone,
        cascade=cascade,
    )


def _cost(delegated: Artifact, labels: Artifact) -> Cost:
    figures = delegated.metrics
    return Cost(
        annotation_seconds=labels.metrics.get("core_seconds", 0.0),
        training_seconds=figures["seconds"],
        tokens_forward=int(figures["tokens_forward"]),
        tokens_gt_grad=int(figures["tokens_gt_grad"]),
        tokens_call_grad=int(figures["tokens_call_grad"]),
    )


def _real_text(results: CascadeResults) -> list[str]:
    models = {"taught to ask": results.model} | ({"plain": results.plain} if results.plain else {})
    return [
        probes_section({name: model.probes for name, model in models.items()}),
        factscore_section({name: model.factscore for name, model in models.items() if model.factscore is not None}),
    ]


def _lines(results: CascadeResults) -> dict[str, Curves]:
    lines: dict[str, Curves] = {results.selection: [results.model.curve]}
    if results.plain is not None:
        lines["plain model, calling where it doubts"] = [results.plain.curve]
    return lines


def _metrics(results: CascadeResults) -> dict[str, float]:
    """Flat metrics for MLflow and for gates."""
    metrics = {"factual_share": results.factual_share, "helper_right": results.helper_accuracy.right}
    for prefix, model in (("", results.model), ("plain_", results.plain)):
        if model is None:
            continue
        metrics |= {
            f"{prefix}fact_accuracy_alone": model.curve[0].accuracy,
            f"{prefix}fact_accuracy": model.at_budget.accuracy,
            f"{prefix}fact_accuracy_bound": model.at_budget.bound,
            f"{prefix}gain_of_bound": model.gain_of_bound,
            f"{prefix}wasted_calls": model.at_budget.wasted,
            f"{prefix}auroc_wrong_fact": model.auroc_wrong_fact,
            f"{prefix}auroc_wrong": model.auroc_wrong,
        }
        metrics |= {f"{prefix}bits_per_byte_{subset}": value for subset, value in model.bits_per_byte.items()}
        if model.leakage is not None:
            metrics[f"{prefix}leakage"] = model.leakage
        for name, written in (("alone", model.alone), ("cascade", model.cascade)):
            if written is not None:
                metrics[f"{prefix}recall_{name}"] = written.recall.estimate
                metrics[f"{prefix}calls_{name}"] = written.calls
                if written.precision is not None:
                    metrics[f"{prefix}precision_{name}"] = written.precision.estimate
        for probe in model.probes:
            name = f"{prefix}probe_{Path(probe.file).name.partition('.')[0]}"
            metrics |= {
                f"{name}_alone": probe.parts["all"].alone.estimate,
                f"{name}_cascade": probe.parts["all"].cascade.estimate,
            }
        if model.factscore is not None:
            for way in ("alone", "cascade"):
                judged = getattr(model.factscore, way)
                if judged.score is not None:
                    metrics[f"{prefix}factscore_{way}"] = judged.score.estimate
    return {name: value for name, value in metrics.items() if value == value}  # NaN is not a metric
