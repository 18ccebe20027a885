"""Stage ``cascade``: what asking is worth, over all call budgets, on held-out text and in what the model writes itself.

The delegated model is compared with the plain one that it was trained from, which calls where it is uncertain (by
entropy) at the same budgets. Every result is compared with the bound, where all calls are placed on facts that the
model would get wrong.
"""

import json
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.special import logit

from components.cascade.calibration import Calibration, CallCalibration
from components.cascade.config import CallScore
from components.cascade.decoding import Cascade
from components.cascade.helpers import Helper, open_helper
from components.core.acceptance import accepted_section
from components.core.artifact import REPORT, Rows
from components.core.atomic import write_text
from components.core.errors import ArtifactError
from components.core.metrics import auroc
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import ShardSet, Split
from components.data.tokenizer import TextTokenizer
from components.data.world.comprehension import World
from components.delegation.config import SELECTIONS_THAT_CALL, DelegationConfig
from components.delegation.positions import calibrated, score_positions
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.config import CascadeAssessConfig
from components.evaluation.factuality.artifacts import CascadeAssessment
from components.evaluation.factuality.attribution_image import draw_texts
from components.evaluation.factuality.calculations import run_calculations
from components.evaluation.factuality.calls import call_points
from components.evaluation.factuality.curve import Curves, draw_budget_curve
from components.evaluation.factuality.factscore import run_factscore
from components.evaluation.factuality.generated import Biography, fact_scores, subjects, write_biographies
from components.evaluation.factuality.helper_accuracy import ask_helper
from components.evaluation.factuality.predictions import Predictions, predict
from components.evaluation.factuality.probes import run_probes
from components.evaluation.factuality.real_text_report import (
    calculations_section,
    factscore_section,
    probes_section,
)
from components.evaluation.factuality.report import TEXTS_SHOWN, cascade_report, texts_page
from components.evaluation.factuality.results import CascadeResults, Cost, HelperAccuracy, ModelResults, Written
from components.evaluation.factuality.subset_likelihood import bits_per_byte
from components.evaluation.heldout import chosen, held_out
from components.evaluation.progress import progress
from components.evaluation.questions import answer_questions, mentions, read_questions
from components.labelling.artifact import Labels
from components.labelling.labels import FactBits
from components.model.transformer import Transformer
from components.training.trained import TrainedModel

LEAKAGE_QUESTIONS = 300
HANDOVERS = 200
# Calibration of the plain model, for calls by entropy; the delegated model has its own.
_CALIBRATION_TOKENS = 30_000


@dataclass(frozen=True)
class _Data:
    """The data that both models are measured on."""

    prepared: PreparedData
    tokenizer: TextTokenizer
    shards: ShardSet
    split: Split
    documents: list[int]
    labels: FactBits
    helper: Helper
    world: World | None


def stage(
    run: Run,
    config: CascadeAssessConfig,
    *,
    delegated: TrainedModel,
    calibration: Calibration,
    prepared: PreparedData,
    labels: Labels,
    pretrained: TrainedModel | None = None,
) -> CascadeAssessment:
    """Measure the model in ``delegated`` with the helper of ``config.cascade``, beside ``pretrained`` if given.

    On the closed world it also writes biographies and checks them fact by fact. Raises ``ServiceError`` if the helper
    cannot be reached at the start.
    """
    settings = _delegation(delegated)
    score: CallScore = "call" if settings.selection in SELECTIONS_THAT_CALL else "entropy"
    data = _opened(run, config, prepared, labels)
    with closing(data.helper):
        calls = calibration.load()
        model, texts, predictions = _measured(run, config, data, delegated, score, calls, 0.0, 0.5)
        baseline = _measured(run, config, data, pretrained, "entropy", None, 0.5, 0.9)[0] if pretrained else None
        helper_accuracy = _helper_accuracy(run, config, data, predictions, score)
        results = CascadeResults(
            selection=settings.selection,
            match=settings.match,
            normalisation=settings.normalisation,
            seed=int(delegated.record.identity.config["trainer"]["seed"]),
            helper=data.helper.name,
            budget=config.cascade.budget,
            positions=len(predictions),
            factual_share=float(predictions.factual.mean()),
            confidence=config.facts.confidence,
            model=model,
            plain=baseline,
            helper_accuracy=helper_accuracy,
            cost=_cost(delegated, labels),
        )
    _write(run, results, texts)
    metrics = _metrics(results)
    run.log(metrics, None)
    run.report(1.0, f"facts right: {model.curve[0].accuracy:.1%} alone, {model.at_budget.accuracy:.1%} with calls")
    details = {"selection": results.selection, "helper": results.helper, "score": score, "seed": results.seed}
    return run.seal(metrics, details, _rows(metrics, results.helper), view=CascadeAssessment)


def _rows(metrics: Mapping[str, float], helper: str) -> Rows:
    words = f"{metrics['fact_accuracy_alone']:.1%} alone, {metrics['fact_accuracy']:.1%} with calls filled in"
    return [("facts right", f"{words}; {metrics['wasted_calls']:.1%} of the calls wasted"), ("helper", helper)]


def _delegation(delegated: TrainedModel) -> DelegationConfig:
    settings = DelegationConfig.of(delegated)
    if settings is None:
        raise ArtifactError(f"the model in {delegated.folder} was not taught to delegate: run `lacewing delegate`")
    return settings


def _write(run: Run, results: CascadeResults, texts: list[Biography]) -> None:
    """The results for programs; the page, the curve and the written texts for people."""
    folder, files = run.folder, CascadeAssessment
    write_text(folder / files.RESULTS, results.model_dump_json(indent=2) + "\n")
    if texts:
        lines = (json.dumps(text.model_dump(), ensure_ascii=False) + "\n" for text in texts)
        write_text(folder / files.BIOGRAPHIES, "".join(lines))
        write_text(folder / files.TEXTS, texts_page(texts))
        draw_texts(texts[:TEXTS_SHOWN], [folder / files.TEXTS_PNG])
    draw_budget_curve(_lines(results), results.budget, [folder / files.CURVE_PNG, folder / files.CURVE_SVG])
    page = cascade_report(results, texts, files.CURVE_PNG, _real_text(results))
    write_text(folder / REPORT, page + accepted_section(run.accepted))


def _helper_accuracy(
    run: Run, cfg: CascadeAssessConfig, data: _Data, predictions: Predictions, score: CallScore
) -> HelperAccuracy:
    asking = predictions.call if score == "call" else predictions.entropy
    with progress(run, "asking the helper at gold text", 0.9, 0.98):
        return ask_helper(
            data.helper,
            data.tokenizer,
            data.split,
            data.documents,
            predictions,
            asking,
            cfg.cascade,
            HANDOVERS,
            _least(cfg, score),
        )


def _least(cfg: CascadeAssessConfig, score: CallScore) -> float:
    """The lowest score that calls, as ``asking`` counts it: log-odds of P(CALL), or no bound."""
    return float(logit(cfg.cascade.least_call_probability)) if score == "call" else -math.inf


def _opened(run: Run, cfg: CascadeAssessConfig, prepared: PreparedData, labels: Labels) -> _Data:
    shards = prepared.shards()
    split = held_out(shards)
    facts = prepared.fact_table
    helper = open_helper(
        cfg.cascade.helper,
        tokenizer=prepared.tokenizer_folder,
        facts=facts,
        corpus=prepared,
        index=run.folder / CascadeAssessment.RETRIEVAL,
        device=str(scoring_device(cfg.facts.device)),
    )
    return _Data(
        prepared,
        prepared.tokenizer(),
        shards,
        split,
        chosen(split.documents[:, 1], split.n_documents, cfg.facts.max_tokens).tolist(),
        labels.facts(prepared),
        helper,
        World.load(facts) if facts is not None else None,
    )


def _measured(
    run: Run,
    cfg: CascadeAssessConfig,
    data: _Data,
    artifact: TrainedModel,
    score: CallScore,
    calibration: CallCalibration | None,
    begin: float,
    end: float,
) -> tuple[ModelResults, list[Biography], Predictions]:
    """One model: on gold text, alone, and as a cascade."""
    device = scoring_device(cfg.facts.device)
    model = artifact.load(device)
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
    results = _results(cfg, predictions, asking, score, leakage, alone, asked)
    return _with_real_text(run, cfg, data, cascade, prefix, results, at[3], at[4]), texts, predictions


def _calibration(model: Transformer, data: _Data) -> CallCalibration:
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
    """Add what the settings ask for about real entities, real people and calculations."""
    half = (begin + end) / 2
    if cfg.facts.calculations.file:
        solutions = run.folder / f"{prefix}{CascadeAssessment.SOLUTIONS}"
        with progress(run, "calculating", begin, half) as report:
            found = run_calculations(cascade, data.tokenizer, cfg.facts.calculations, cfg.facts, solutions, report)
        results = results.model_copy(update={"calculations": found})
    if cfg.facts.probes.files:
        answers = run.folder / f"{prefix}{CascadeAssessment.PROBE_ANSWERS}"
        with progress(run, "asking about real entities", begin, half) as report:
            probes = run_probes(cascade, data.tokenizer, cfg.facts.probes, cfg.facts, answers, report)
        results = results.model_copy(update={"probes": probes})
    if cfg.facts.factscore.entities:
        responses = run.folder / f"{prefix}{CascadeAssessment.RESPONSES}"
        with progress(run, "writing about real people", half, end) as report:
            score = run_factscore(cascade, data.tokenizer, cfg.facts.factscore, cfg.facts, responses, report)
        results = results.model_copy(update={"factscore": score})
    return results


def _leakage(model: Transformer, data: _Data) -> float | None:
    if data.prepared.questions is None:
        return None
    answers = answer_questions(model, data.tokenizer, read_questions(data.prepared.questions, LEAKAGE_QUESTIONS))
    return sum(map(mentions, answers)) / max(1, len(answers))


def _results(
    cfg: CascadeAssessConfig,
    predictions: Predictions,
    asking: Float[np.ndarray, " positions"],
    score: CallScore,
    leakage: float | None,
    alone: Written | None,
    cascade: Written | None,
) -> ModelResults:
    budgets = sorted({0.0, *cfg.facts.budgets, cfg.cascade.budget})
    points = call_points(predictions, asking, budgets, _least(cfg, score))
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


def _cost(delegated: TrainedModel, labels: Labels) -> Cost:
    training = delegated.metrics
    return Cost(
        annotation_seconds=labels.metrics.get("core_seconds", 0.0),
        training_seconds=training["seconds"],
        tokens_forward=int(training["tokens_forward"]),
        tokens_gt_grad=int(training["tokens_gt_grad"]),
        tokens_call_grad=int(training["tokens_call_grad"]),
    )


def _real_text(results: CascadeResults) -> list[str]:
    models = {"taught to ask": results.model} | ({"plain": results.plain} if results.plain else {})
    return [
        probes_section({name: model.probes for name, model in models.items()}),
        factscore_section({name: model.factscore for name, model in models.items() if model.factscore is not None}),
        calculations_section({name: each.calculations for name, each in models.items() if each.calculations}),
    ]


def _lines(results: CascadeResults) -> dict[str, Curves]:
    lines: dict[str, Curves] = {results.selection: [results.model.curve]}
    if results.plain is not None:
        lines["plain model, calling where it doubts"] = [results.plain.curve]
    return lines


def _metrics(results: CascadeResults) -> dict[str, float]:
    """Flat metrics for MLflow and for gates."""
    metrics = {"factual_share": results.factual_share, "helper_right": results.helper_accuracy.right}
    if results.helper_accuracy.right_without_document is not None:
        metrics["helper_right_without_document"] = results.helper_accuracy.right_without_document
    if results.helper_accuracy.facts is not None:
        metrics["helper_right_at_facts"] = results.helper_accuracy.facts.right
        metrics["helper_answers_at_facts"] = results.helper_accuracy.facts.answered
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
        if model.calculations is not None:
            metrics |= {
                f"{prefix}results_right_alone": model.calculations.alone.estimate,
                f"{prefix}results_right": model.calculations.cascade.estimate,
                f"{prefix}calculator_calls": model.calculations.calls,
                f"{prefix}calculator_calls_wasted": model.calculations.wasted,
            }
        if model.factscore is not None:
            for way in ("alone", "cascade"):
                judged = getattr(model.factscore, way)
                if judged.score is not None:
                    metrics[f"{prefix}factscore_{way}"] = judged.score.estimate
    return {name: value for name, value in metrics.items() if value == value}  # NaN is not a metric
