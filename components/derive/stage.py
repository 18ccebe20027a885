"""The stage ``derive``: a model of a model, weights to weights, without training. Laid out as that of ``pretrain``."""

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.artifact import Rows
from components.core.errors import InputError
from components.core.run import Run
from components.data.special_tokens import SpecialTokens
from components.data.tokenizer import TextTokenizer, save_tokenizer
from components.derive.config import DeriveStageConfig
from components.derive.tokenizer import check_promises
from components.derive.weights_in import Derived, weights_in
from components.model.bundle import Bundle
from components.model.checkpoint import save_state
from components.training.trained import TrainedModel


def stage(run: Run, config: DeriveStageConfig, *, bundle: Bundle | None = None) -> TrainedModel:
    """Make a model of the one in ``config.start_from``, or of ``bundle``.

    Raises ``ArtifactError`` for a model that is damaged or would be computed differently here, ``InputError`` if none
    is given.
    """
    began = time.perf_counter()
    place = _place(config, bundle)
    run.report(0.0, f"reading {place}")
    derived = weights_in(place, config.derive)
    folder = run.folder / TrainedModel.MODEL
    save_tokenizer(derived.tokenizer, folder, derived.roles)
    check_promises(TextTokenizer.load(folder), place)
    run.report(0.6, "writing weights")
    save_state(derived.config, derived.state, folder, SpecialTokens.read(folder))
    metrics = _metrics(derived, time.perf_counter() - began)
    details = {
        "derived_from": place.name if bundle is None else bundle.name,
        "method": config.derive.method,
        "initialisation": config.derive.initialisation,
        "preset": derived.config.name,
        "vocab_size": int(metrics["vocab_size"]),
        "added_tokens": derived.added,
        "tokens": 0,
        "tokens_before": 0 if bundle is None else int(bundle.details["training_tokens"]),
    }
    run.report(1.0, f"{metrics['parameters']:,.0f} parameters")
    return run.seal(metrics, details, _rows(metrics, details), view=TrainedModel)


def _place(config: DeriveStageConfig, bundle: Bundle | None) -> Path:
    if bundle is not None:
        return bundle.verify().folder
    if not config.start_from:
        raise InputError("there is nothing to derive from: set start_from to a model")
    return Path(config.start_from)


def _metrics(derived: Derived, seconds: float) -> dict[str, float]:
    size = len(derived.state["embedding.weight"])
    return {
        "parameters": float(derived.config.parameters(size)),
        "vocab_size": float(size),
        "tokens": 0.0,
        "seconds": seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _rows(metrics: Mapping[str, float], details: Mapping[str, Any]) -> Rows:
    return [
        ("started from", f"{details['derived_from']}, {metrics['parameters']:,.0f} parameters"),
        ("vocabulary", f"{metrics['vocab_size']:,.0f} tokens, {details['added_tokens']} of them added"),
    ]
