"""Stage ``calibrate``: from held-out text, the threshold on P(CALL) for every share of calls."""

import logging

import numpy as np
import torch

from components.cascade.calibration import Calibration, CallCalibration
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.chats.artifact import spoken
from components.data.prepared import PreparedData
from components.data.shards import ShardSet, Split
from components.delegation.config import CalibrateConfig, DelegationConfig
from components.delegation.positions import Positions, calibrated, score_positions
from components.labelling.artifact import Labels
from components.training.precision import chosen_device, chosen_precision
from components.training.trained import TrainedModel

SPLIT = "validation"
_logger = logging.getLogger(__name__)


def stage(
    run: Run, config: CalibrateConfig, *, delegated: TrainedModel, prepared: PreparedData, labels: Labels
) -> Calibration:
    """Look at the validation split through the model in ``delegated``, which may be a plain one.

    Of conversations, only what the assistant says counts: a served model decides nowhere else.

    Metrics: ``tokens``, ``factual_share``, ``mean_call_probability`` and that by class,
    ``reliability_error``, and how far the realised calls were from the budget at worst: ``budget_error`` with the
    thresholds of the first half on the second, ``running_budget_error`` with the running quantile.
    """
    positions = _positions(run, config, delegated, prepared, labels)
    settings = DelegationConfig.of(delegated)
    calibration = calibrated(positions, config.bins, settings.normalisation if settings else "unknown")
    calibration.save(run.folder / Calibration.RECORD)
    warnings = _warnings(calibration)
    for warning in warnings:
        _logger.warning(warning)
    metrics = _metrics(calibration, positions)
    run.log(metrics, None)
    run.report(1.0, f"mean P(CALL) {metrics['mean_call_probability']:.3f} on {calibration.tokens:,} tokens")
    return run.seal(metrics, {"normalisation": calibration.normalisation, "warnings": warnings}, view=Calibration)


def _positions(
    run: Run, config: CalibrateConfig, delegated: TrainedModel, prepared: PreparedData, labels: Labels
) -> Positions:
    """What the model says of held-out text; raises ``ArtifactError`` if it does not fit the data or diverged."""
    model = delegated.load(chosen_device(config.device))
    tokenizer = prepared.tokenizer()
    facts = labels.facts(prepared)
    split = _held_out(prepared.shards())
    if model.vocab_size != tokenizer.vocab_size:
        raise ArtifactError(
            f"the model in {delegated.folder} has {model.vocab_size} tokens, the tokenizer in {prepared.folder} "
            f"{tokenizer.vocab_size}: they do not belong together"
        )
    device = model.output_weight.device
    bf16 = chosen_precision(config.precision, device) == "bf16-mixed"
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        positions = score_positions(
            model,
            split,
            facts,
            tokenizer.end_of_text_id,
            tokenizer.call_id,
            config.max_tokens,
            config.batch_tokens,
            lambda fraction: run.report(0.9 * fraction, "scoring held-out text"),
            only=spoken(prepared),
        )
    if not all(np.isfinite(scores).all() for scores in (positions.call, positions.entropy)):
        raise ArtifactError(
            f"the model in {delegated.folder} gives no finite prediction on held-out text: its training diverged. "
            "Train again with a lower learning rate."
        )
    return positions


def _held_out(shards: ShardSet) -> Split:
    split = shards.splits.get(SPLIT)
    if split is None or split.n_documents == 0:
        raise InputError(
            "the validation split holds no document, so nothing can be calibrated: give more documents, or set "
            "data.validation_fraction higher"
        )
    return split


def _warnings(calibration: CallCalibration) -> list[str]:
    if calibration.factual:
        return []
    return [
        f"none of the {calibration.tokens:,} tokens looked at is labelled as a fact: calibrated to zero calls, the "
        "small model will answer alone. Set label.annotator or label.rules otherwise if the text does state facts."
    ]


def _metrics(calibration: CallCalibration, positions: Positions) -> dict[str, float]:
    reliability = sum(abs(part.mean - part.wrong) * part.count for part in calibration.reliability)
    metrics = {
        "tokens": float(calibration.tokens),
        "factual_share": float(positions.factual.mean()),
        "mean_call_probability": float(positions.call.mean()),
        "reliability_error": reliability / calibration.tokens,
    }
    for name, mean in calibration.mean_call_probability.items():
        metrics[f"call_{name}"] = mean
    for name, pairs in (
        ("budget_error", calibration.expected_vs_realised),
        ("running_budget_error", calibration.running_realised),
    ):
        if pairs:
            metrics[name] = max(abs(realised - budget) for budget, realised in pairs)
    return metrics
