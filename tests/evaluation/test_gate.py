"""The gate on real models and a champion with a tokenizer of its own; the rule itself is tested in test_decision.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer, save_tokenizer, train_tokenizer
from components.evaluation import gate
from components.evaluation.artifacts import GateDecision
from components.evaluation.config import GateConfig
from components.evaluation.likelihood import score_documents
from components.model.bundle import Bundle
from components.model.checkpoint import WEIGHTS, save_model
from components.model.transformer import Transformer
from tests.evaluation.conftest import SHAPE, bundle, learn

CFG = GateConfig(precision="32-true", resamples=1000)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, trained: Transformer, prepared: PreparedData) -> Bundle:
    return bundle(tmp_path_factory.mktemp("good"), trained, prepared)


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory, prepared: PreparedData, tokenizer: TextTokenizer) -> Bundle:
    """A bundle whose model was trained for a quarter of the steps."""
    return bundle(tmp_path_factory.mktemp("poor"), learn(prepared, tokenizer, steps=50), prepared)


def decision(
    folder: Path, challenger: Bundle, prepared: PreparedData, champion: Bundle | None = None, cfg: GateConfig = CFG
) -> GateDecision:
    return gate.stage(Run.local(folder, "gate"), cfg, bundle=challenger, prepared=prepared, champion=champion)


def test_a_better_model_replaces_the_champion_and_the_record_says_by_how_much(
    tmp_path: Path, good: Bundle, poor: Bundle, prepared: PreparedData
) -> None:
    result = decision(tmp_path, good, prepared, poor)
    assert result.promote
    written = json.loads(result.path(GateDecision.DECISION).read_text())
    assert written["promote"] is True
    assert written["reason"] == result.reason
    metrics = result.metrics
    assert metrics["interval_low"] < metrics["difference"] < metrics["interval_high"] < 0
    assert metrics["difference"] == pytest.approx(
        metrics["challenger_bits_per_byte"] - metrics["champion_bits_per_byte"]
    )


def test_a_worse_model_is_refused_with_the_mirrored_figures(
    tmp_path: Path, good: Bundle, poor: Bundle, prepared: PreparedData
) -> None:
    forwards = decision(tmp_path / "a", good, prepared, poor).metrics
    result = decision(tmp_path / "b", poor, prepared, good)
    assert not result.promote
    assert "the challenger is worse by" in result.reason
    assert result.metrics["difference"] == pytest.approx(-forwards["difference"])
    assert result.metrics["champion_bits_per_byte"] == pytest.approx(forwards["challenger_bits_per_byte"])


def test_a_copy_of_the_champion_is_not_better_but_within_a_margin(
    tmp_path: Path, good: Bundle, prepared: PreparedData
) -> None:
    refused = decision(tmp_path / "a", good, prepared, good)
    assert refused.details["promote"] is False
    assert refused.metrics["difference"] == 0
    lenient = CFG.model_copy(update={"margin_bits_per_byte": 0.001})
    assert decision(tmp_path / "b", good, prepared, good, cfg=lenient).details["promote"] is True


def test_the_first_model_is_promoted(tmp_path: Path, poor: Bundle, prepared: PreparedData) -> None:
    result = decision(tmp_path, poor, prepared)
    assert result.promote
    assert "no champion yet" in result.reason
    assert result.metrics.keys() == {"challenger_bits_per_byte"}
    assert GateDecision.open(tmp_path).metrics == result.metrics


def test_each_model_scores_the_same_text_with_its_own_tokenizer(
    tmp_path: Path, good: Bundle, prepared: PreparedData
) -> None:
    """The champion has another vocabulary; its score must equal a direct score of the test split's text."""
    shards = prepared.shards()
    own = prepared.tokenizer()
    test = shards.splits["test"]
    texts = [own.decode(test.document(i).tolist()) for i in range(test.n_documents)]
    assert [len(text.encode()) for text in texts] == test.documents[:, 2].tolist()
    other = Run.local(tmp_path / "other", "bundle")
    train = shards.splits["train"]
    words = [own.decode(train.document(i).tolist()) for i in range(0, train.n_documents, 3)]
    save_tokenizer(train_tokenizer([text.upper() + text for text in words], 384), other.folder)
    tokenizer = TextTokenizer.load(other.folder)
    torch.manual_seed(3)
    model = Transformer(SHAPE, tokenizer.vocab_size).eval()
    save_model(model, other.folder, tokenizer.special)
    champion = other.seal({}, view=Bundle)
    ids = tokenizer.encode_batch(texts)
    assert ids != own.encode_batch(texts)
    expected = score_documents(
        model, ids, [len(text.encode()) for text in texts], tokenizer.end_of_text_id, tokenizer.call_id
    )
    result = decision(tmp_path / "gate", good, prepared, champion)
    assert result.promote
    assert result.metrics["champion_bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-5)


def test_the_limit_takes_the_same_documents_for_both(
    tmp_path: Path, good: Bundle, poor: Bundle, prepared: PreparedData
) -> None:
    result = decision(tmp_path, good, prepared, poor, cfg=CFG.model_copy(update={"max_documents": 12}))
    assert json.loads(result.path(GateDecision.DECISION).read_text())["documents"] == 12
    assert np.isfinite(result.metrics["difference"])


def test_a_truncated_bundle_is_an_error_not_a_refusal(
    tmp_path: Path, trained: Transformer, good: Bundle, prepared: PreparedData
) -> None:
    damaged = bundle(tmp_path / "damaged", trained, prepared)
    weights = damaged.path(WEIGHTS)
    weights.write_bytes(weights.read_bytes()[:-100])
    for inputs in ([damaged, prepared, good], [good, prepared, damaged]):
        with pytest.raises(ArtifactError, match=r"model\.safetensors has \d+ bytes"):
            decision(tmp_path / "run", *inputs)
