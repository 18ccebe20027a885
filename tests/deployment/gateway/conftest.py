"""A bundle that is calibrated for other engines, and a real llama.cpp that runs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.cascade.calibration import LEVELS, Calibration, CallCalibration, quantiles_of
from components.cascade.call_scores import call_score
from components.cascade.decoding import Cascade
from components.core.run import Run
from components.delegation.bundled import open_bundled_helper
from components.deployment.bundle import load_bundle
from components.deployment.export.gguf_file import write_gguf
from components.deployment.gateway.config import GatewayConfig
from components.model.bundle import Bundle
from tests.deployment.conftest import Delegated
from tests.deployment.export.llama_cpp import LlamaCpp, llama_cpp

CONTEXT = 256


@pytest.fixture(scope="session")
def calling(delegated: Delegated, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of the tiny model that asks the fact table, with the quantiles of its logit margins."""
    folder = tmp_path_factory.mktemp("calling")
    model, tokenizer = delegated.delegated.load(), delegated.prepared.tokenizer()
    text = delegated.prepared.shards().splits["validation"].document(0)[:CONTEXT]
    with torch.inference_mode():
        logits = model.logits(model(torch.tensor([[tokenizer.end_of_text_id, *text.tolist()]])))[0]
    levels = quantiles_of(call_score(logits, tokenizer.call_id, "logit_margin").numpy())
    calibrated = Run.local(folder / "calibrate", "calibrate")
    never = [0.0] * LEVELS
    CallCalibration(quantiles=never, tokens=100, factual=True, post_hoc={"logit_margin": levels}).save(
        calibrated.folder / Calibration.RECORD
    )
    return delegated._replace(calibration=calibrated.seal({}, view=Calibration)).bundle(folder / "bundle", budget=0.3)


@pytest.fixture(scope="session")
def gguf(calling: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model for llama.cpp, every weight as it is."""
    path = tmp_path_factory.mktemp("gguf") / "calling.gguf"
    write_gguf(load_bundle(calling.folder).model, calling.folder, path, "calling", "f32")
    return path


@pytest.fixture(scope="session")
def upstream(gguf: Path) -> Iterator[LlamaCpp]:
    """A real llama.cpp that runs it."""
    with llama_cpp(gguf, CONTEXT) as server:
        yield server


def settings(url: str, **more: object) -> GatewayConfig:
    return GatewayConfig.model_validate({"model": "calling", "upstream": url, **more})


def in_process(bundle: Bundle, budget: float) -> Cascade:
    """Our own cascade with the rule that other engines follow."""
    loaded = load_bundle(bundle.folder)
    assert loaded.delegation is not None
    config = loaded.delegation.cascade.model_copy(
        update={"call_score": "logit_margin", "rule": "fixed", "budget": budget}
    )
    helper = open_bundled_helper(loaded.delegation, bundle.folder, "cpu")
    return Cascade(loaded.model, loaded.tokenizer, helper, loaded.delegation.calibration, config)
