"""The gate on real models, with tokenizers and helpers of their own; the rule itself is tested in test_verdict.py."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from components.cascade.config import CascadeConfig, HelperConfig
from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer, save_tokenizer, train_tokenizer
from components.delegation.bundled import DelegationRecord
from components.evaluation.artifacts import GateDecision
from components.evaluation.config import GateConfig
from components.evaluation.gate.stage import stage
from components.evaluation.likelihood import score_documents
from components.labelling.artifact import Labels
from components.model.bundle import Bundle
from components.model.checkpoint import WEIGHTS, save_model
from components.model.transformer import Transformer
from tests.evaluation.conftest import SHAPE, bundle, learn
from tests.fakes import calibration

# The corpus is so small that its documents are near-duplicates of each other.
CFG = GateConfig(
    precision="32-true", resamples=500, texts=2, text_tokens=8, questions=8, fact_tokens=1000, contamination_tokens=0
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, trained: Transformer, prepared: PreparedData) -> Bundle:
    return bundle(tmp_path_factory.mktemp("good"), trained, prepared)


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory, prepared: PreparedData, tokenizer: TextTokenizer) -> Bundle:
    """A bundle whose model was trained for a quarter of the steps."""
    return bundle(tmp_path_factory.mktemp("poor"), learn(prepared, tokenizer, steps=50), prepared)


@pytest.fixture
def decide(tmp_path: Path, prepared: PreparedData, fact_labels: Labels):  # type: ignore[no-untyped-def]
    def run(challenger: Bundle, champion: Bundle | None = None, cfg: GateConfig = CFG, **inputs: Any) -> GateDecision:
        folder = tmp_path / f"gate-{len(list(tmp_path.glob('gate-*')))}"
        given = {"prepared": prepared, "labels": fact_labels, **inputs}
        return stage(Run.local(folder, "gate"), cfg, bundle=challenger, champion=champion, **given)

    return run


def test_a_better_model_replaces_the_champion_and_the_record_says_by_how_much(decide, good, poor) -> None:  # type: ignore[no-untyped-def]
    result = decide(good, poor)
    assert result.promote
    assert result.outcome == "promote"
    written = json.loads(result.path(GateDecision.DECISION).read_text())
    assert written["outcome"] == "promote"
    assert written["reason"] == result.reason
    metrics = result.metrics
    low, high = metrics["bits_per_byte_other.difference_low"], metrics["bits_per_byte_other.difference_high"]
    assert low < metrics["bits_per_byte_other.difference"] < high < 0
    assert "# Promoted" in result.report.read_text()


def test_a_worse_model_is_refused(decide, good, poor) -> None:  # type: ignore[no-untyped-def]
    result = decide(poor, good)
    assert result.outcome == "refuse"
    assert result.reason.startswith("worse: ")


def test_a_copy_of_the_champion_is_held_unless_a_margin_allows_it(decide, good) -> None:  # type: ignore[no-untyped-def]
    held = decide(good, good)
    assert held.outcome == "hold"
    assert held.metrics["facts_right.difference"] == 0
    settings = CFG.model_dump() | {"criteria": {"facts_right": {"role": "decides", "margin": 0.001}}}
    assert decide(good, good, GateConfig.model_validate(settings)).promote


def test_the_first_model_is_promoted(decide, poor) -> None:  # type: ignore[no-untyped-def]
    result = decide(poor)
    assert result.promote
    assert "there is no champion yet" in result.reason
    assert GateDecision.open(result.folder).metrics == result.metrics


def test_the_evidence_is_kept_example_by_example(decide, good, poor, prepared) -> None:  # type: ignore[no-untyped-def]
    result = decide(good, poor)
    rows = pq.read_table(result.path(GateDecision.SCORES)).to_pylist()
    for model in ("challenger", "champion"):
        bits = [row for row in rows if (row["model"], row["metric"]) == (model, "bits_per_byte")]
        assert len({row["example"] for row in bits}) == prepared.shards().splits["test"].n_documents
        value = sum(row["numerator"] for row in bits) / sum(row["denominator"] for row in bits)
        assert value == pytest.approx(result.metrics[f"bits_per_byte.{model}"])


def test_each_model_reads_the_same_text_with_its_own_tokenizer(
    decide, tmp_path: Path, good: Bundle, prepared: PreparedData
) -> None:  # type: ignore[no-untyped-def]
    shards, own = prepared.shards(), prepared.tokenizer()
    test, train = shards.splits["test"], shards.splits["train"]
    texts = [own.decode(test.document(i).tolist()) for i in range(test.n_documents)]
    words = [own.decode(train.document(i).tolist()) for i in range(0, train.n_documents, 3)]
    other = Run.local(tmp_path / "other", "bundle")
    save_tokenizer(train_tokenizer([text.upper() + text for text in words], 384), other.folder)
    tokenizer = TextTokenizer.load(other.folder)
    torch.manual_seed(3)
    model = Transformer(SHAPE, tokenizer.vocab_size).eval()
    save_model(model, other.folder, tokenizer.special)
    champion = other.seal({}, view=Bundle)
    ids = tokenizer.encode_batch(texts)
    assert ids != own.encode_batch(texts)
    sizes = [len(text.encode()) for text in texts]
    expected = score_documents(model, ids, sizes, tokenizer.end_of_text_id, tokenizer.call_id)
    result = decide(good, champion)
    assert result.promote
    assert result.metrics["bits_per_byte.champion"] == pytest.approx(expected.bits_per_byte, rel=1e-5)


def asking(folder: Path, model: Transformer, prepared: PreparedData, helper: HelperConfig) -> Bundle:
    """A bundle that calls at half of its decisions."""
    made = bundle(folder, model, prepared)
    record = DelegationRecord(
        selection="lacy", cascade=CascadeConfig(budget=0.5, helper=helper), calibration=calibration(0.0, 1e-3)
    )
    (folder / Bundle.DELEGATION).write_text(record.model_dump_json())
    return Run.local(folder, "bundle").seal({}, {**made.details, "name": "asking"}, view=Bundle)


def test_a_helper_that_cannot_be_opened_is_a_reason_to_refuse_and_the_champions_to_hold(
    decide, tmp_path: Path, trained: Transformer, good: Bundle, prepared: PreparedData
) -> None:  # type: ignore[no-untyped-def]
    nowhere = HelperConfig(kind="endpoint", url="http://127.0.0.1:9/v1", name="none", timeout_seconds=0.2, retries=0)
    broken = asking(tmp_path / "broken", trained, prepared, nowhere)
    refused = decide(broken, good)
    assert refused.outcome == "refuse"
    assert "cannot be opened" in refused.reason
    held = decide(good, broken)
    assert held.outcome == "hold"
    assert "the champion cannot be judged as it is served" in held.reason


def test_another_corpus_is_refused_by_name_unless_a_person_wants_the_comparison(
    decide, tmp_path: Path, trained: Transformer, poor: Bundle, prepared: PreparedData
) -> None:  # type: ignore[no-untyped-def]
    def made_from(name: str, model: Transformer) -> Bundle:
        folder = tmp_path / name
        bundle(folder, model, prepared)
        details = {"name": name, "data": {"details": {"sources": [{"source": name}]}}}
        return Run.local(folder, "bundle").seal({}, details, view=Bundle)

    letters, diaries = made_from("letters", trained), made_from("diaries", poor.load())
    result = decide(letters, diaries)
    assert result.outcome == "refuse"
    assert "the champion learnt from diaries, this model from letters" in result.reason
    assert decide(letters, diaries, CFG.model_copy(update={"other_corpus": "compare"})).promote
    demonstration = made_from("world", poor.load())
    assert decide(letters, demonstration).promote
    assert decide(demonstration, letters).outcome == "refuse"


def test_a_truncated_bundle_is_an_error_not_a_refusal(
    decide, tmp_path: Path, trained: Transformer, good: Bundle, prepared: PreparedData
) -> None:  # type: ignore[no-untyped-def]
    damaged = bundle(tmp_path / "damaged", trained, prepared)
    weights = damaged.path(WEIGHTS)
    weights.write_bytes(weights.read_bytes()[:-100])
    for pair in ([damaged, good], [good, damaged]):
        with pytest.raises(ArtifactError, match=r"model\.safetensors has \d+ bytes"):
            decide(*pair)


def test_held_out_text_that_is_in_the_training_text_is_a_reason_to_refuse(decide, good, poor) -> None:  # type: ignore[no-untyped-def]
    result = decide(good, poor, CFG.model_copy(update={"contamination_tokens": 1_000_000}))
    assert result.outcome == "refuse"
    assert "have a near-duplicate in the training text" in result.reason
    assert " the same as train " in result.reason
    assert result.metrics["contaminated.challenger"] > 0.05
    rows = pq.read_table(result.path(GateDecision.SCORES)).to_pylist()
    seen = [row for row in rows if row["metric"] == "contaminated"]
    assert {row["model"] for row in seen} == {"challenger"}
    assert sum(row["numerator"] for row in seen) / len(seen) == result.metrics["contaminated.challenger"]
