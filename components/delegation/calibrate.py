"""Stage ``calibrate``: from held-out text, the threshold on P(CALL) for every share of calls."""

import logging

import numpy as np
import torch

from components.cascade.calibration import CALIBRATION, Calibration
from components.core.artifact import Artifact
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.shards import ShardSet
from components.data.tokenizer import TextTokenizer, tokenizer_digest
from components.delegation.config import CalibrateConfig
from components.delegation.positions import Positions, calibrated, score_positions
from components.labelling.labels import FactBits
from components.model.checkpoint import load_model
from components.training.precision import chosen_device, chosen_precision

SPLIT = "validation"
_logger = logging.getLogger(__name__)


def stage(run: Run, cfg: CalibrateConfig, delegated: Artifact, prepared: Artifact, labels: Artifact) -> Artifact:
    """Score the validation split with the model in ``delegated`` (or in a pretrain artifact).

    Writes ``calibration.json``. Metrics: ``tokens``, ``factual_share``, ``mean_call_probability`` and that by class,
    ``reliability_error``, and how far the realised calls were from the budget at worst: ``budget_error`` with the
    thresholds of the first half on the second, ``running_budget_error`` with the running quantile.
    """
    model = load_model(delegated.verify().path("model"), chosen_device(cfg.device))
    tokenizer = TextTokenizer.load(prepared.path("tokenizer"))
    shards = ShardSet.open(prepared.path("shards"))
    facts = FactBits.open(labels.path("facts"), shards, tokenizer_digest(prepared.path("tokenizer")))
    split = shards.splits.get(SPLIT)
    if split is None or split.n_documents == 0:
        raise InputError(
            "the validation split holds no document, so nothing can be calibrated: give more documents, or set "
            "data.validation_fraction higher"
        )
    if model.vocab_size != tokenizer.vocab_size:
        raise ArtifactError(
            f"the model in {delegated.folder} has {model.vocab_size} tokens, the tokenizer in {prepared.folder} "
            f"{tokenizer.vocab_size}: they do not belong together"
        )
    device = model.output_weight.device
    bf16 = chosen_precision(cfg.precision, device) == "bf16-mixed"
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        positions = score_positions(
            model,
            split,
            facts,
            tokenizer.end_of_text_id,
            tokenizer.call_id,
            cfg.max_tokens,
            cfg.batch_tokens,
            lambda fraction: run.report(0.9 * fraction, "scoring held-out text"),
        )
    if not all(np.isfinite(scores).all() for scores in (positions.call, positions.entropy)):
        raise ArtifactError(
            f"the model in {delegated.folder} gives no finite prediction on held-out text: its training diverged. "
            "Train again with a lower learning rate."
        )
    calibration = calibrated(positions, cfg.bins, _normalisation(delegated))
    calibration.save(run.folder / CALIBRATION)
    warnings = _warnings(calibration)
    for warning in warnings:
        _logger.warning(warning)
    metrics = _metrics(calibration, positions)
    run.log(metrics, None)
    run.report(1.0, f"mean P(CALL) {metrics['mean_call_probability']:.3f} on {calibration.tokens:,} tokens")
    return run.seal(metrics=metrics, details={"normalisation": calibration.normalisation, "warnings": warnings})


def _normalisation(delegated: Artifact) -> str:
    """How the kept tokens were trained, if the artifact is of delegation."""
    return str(delegated.details.get("delegation", {}).get("normalisation", "unknown"))


def _warnings(calibration: Calibration) -> list[str]:
    if calibration.factual:
        return []
    return [
        f"none of the {calibration.tokens:,} tokens looked at is labelled as a fact: calibrated to zero calls, the "
        "small model will answer alone. Set label.annotator or label.rules otherwise if the text does state facts."
    ]


def _metrics(calibration: Calibration, positions: Positions) -> dict[str, float]:
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
