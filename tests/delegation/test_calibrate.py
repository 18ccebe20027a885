import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from components.cascade.calibration import LEVELS, Calibration
from components.cascade.call_scores import call_probability, call_score
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import ShardWriter
from components.data.tokenizer import save_tokenizer
from components.delegation import calibrate
from components.delegation.config import DETAILS, CalibrateConfig
from components.delegation.positions import BUDGETS, calibrated, score_positions
from components.labelling.artifact import Labels
from components.model.checkpoint import save_model
from components.training.trained import TrainedModel
from tests import fakes
from tests.labels import by_chance, labelled

CFG = CalibrateConfig(precision="32-true", device="cpu", batch_tokens=500)
TOKENS = fakes.tokenizer()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    run = Run.local(tmp_path_factory.mktemp("prepared"), "prepare")
    save_tokenizer(TOKENS._tokenizer, run.folder / PreparedData.TOKENIZER)
    chance = np.random.default_rng(0)
    with ShardWriter(run.folder / PreparedData.SHARDS, TOKENS.vocab_size, TOKENS.end_of_text_id) as writer:
        for split, documents in (("train", 2), ("validation", 120)):
            for _ in range(documents):
                text = " ".join(chance.choice(" ".join(fakes.SENTENCES).split(), size=chance.integers(5, 40)))
                writer.add(split, TOKENS.encode(text), len(text.encode()))
    return run.seal({}, view=PreparedData)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory, prepared: PreparedData) -> Labels:
    return labelled(tmp_path_factory.mktemp("labels"), prepared, by_chance(0.25))


@pytest.fixture(scope="module")
def delegated(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    run = Run.local(tmp_path_factory.mktemp("delegated"), "delegate")
    save_model(fakes.speaker(TOKENS), run.folder / TrainedModel.MODEL, TOKENS.special)
    return run.seal({}, {DETAILS: {"normalisation": "full"}}, view=TrainedModel)


@pytest.fixture(scope="module")
def result(
    tmp_path_factory: pytest.TempPathFactory, delegated: TrainedModel, prepared: PreparedData, labels: Labels
) -> Calibration:
    return calibrate.stage(
        Run.local(tmp_path_factory.mktemp("out"), "calibrate"),
        CFG,
        delegated=delegated,
        prepared=prepared,
        labels=labels,
    )


def test_every_position_is_scored_as_one_forward_pass_over_its_document_scores_it(
    prepared: PreparedData, labels: Labels
) -> None:
    shards, model = prepared.shards(), fakes.speaker(TOKENS)
    split = shards.splits["validation"]
    facts = labels.facts(prepared)
    # One document a batch, then many: padding changes nothing.
    for batch_tokens in (1, 800):
        positions = score_positions(model, split, facts, TOKENS.end_of_text_id, TOKENS.call_id, 2000, batch_tokens)
        at = 0
        for document in np.random.default_rng(0).permutation(split.n_documents):
            if at == len(positions):
                break
            start = split.documents[document, 0]
            row = [TOKENS.end_of_text_id, *split.document(int(document)).tolist(), TOKENS.end_of_text_id]
            row = row[: fakes.SHAPE.context_length + 1]
            with torch.no_grad():
                logits = model.logits(model(torch.tensor([row[:-1]])))[0]
            here = slice(at, at + len(row) - 1)
            for score in ("call", "entropy", "margin", "logit_margin"):
                wanted = (call_score(logits, TOKENS.call_id, score)).numpy()
                np.testing.assert_allclose(getattr(positions, score)[here], wanted, rtol=1e-3, atol=1e-6)
            logits[:, TOKENS.call_id] = -torch.inf
            assert positions.wrong[here].tolist() == (logits.argmax(-1) != torch.tensor(row[1:])).tolist()
            assert (positions.factual[here] == facts.slice("validation", start, start + len(row) - 1)).all()
            at += len(row) - 1
        assert 1000 < at == len(positions) <= 2000


def test_the_record_follows_from_the_positions(result: Calibration, prepared: PreparedData, labels: Labels) -> None:
    shards, model = prepared.shards(), fakes.speaker(TOKENS)
    facts = labels.facts(prepared)
    positions = score_positions(model, shards.splits["validation"], facts, TOKENS.end_of_text_id, TOKENS.call_id)
    record = result.load()
    again = calibrated(positions, CFG.bins, "full")
    assert record.quantiles == pytest.approx(again.quantiles, rel=1e-3)
    assert record.factual
    assert record.normalisation == "full"
    for budget in (0.01, 0.15, 0.5, 0.99):
        for score in ("call", "entropy", "margin", "logit_margin"):
            # Between the two lie equal scores: the first token of all documents is predicted from the same context.
            scores, threshold = getattr(positions, score), record.threshold(budget, score)
            assert (scores > threshold).mean() <= budget + 0.002
            assert (scores >= threshold).mean() >= budget - 0.002
    assert sum(part.count for part in record.reliability) == record.tokens == result.metrics["tokens"]
    wrong = sum(part.wrong * part.count for part in record.reliability) / record.tokens
    assert wrong == pytest.approx(positions.wrong.mean())
    mean = positions.call[positions.factual & positions.wrong].mean()
    assert record.mean_call_probability["factual_wrong"] == pytest.approx(mean, rel=1e-3)


def test_expected_and_realised_budgets_agree_on_the_other_half(result: Calibration) -> None:
    record = result.load()
    for pairs in (record.expected_vs_realised, record.running_realised):
        assert [budget for budget, _ in pairs] == list(BUDGETS)
        assert all(abs(realised - budget) < 0.05 for budget, realised in pairs)
    assert all(abs(realised - budget) <= 0.01 for budget, realised in record.running_realised)
    assert result.metrics["running_budget_error"] <= 0.01
    assert 0.2 < result.metrics["factual_share"] < 0.3


def test_the_ends_of_the_budget_are_never_and_always() -> None:
    record = fakes.calibration()
    assert record.threshold(0.0) == float("inf")
    assert record.threshold(1.0) == float("-inf")
    assert record.threshold(0.1505) == pytest.approx(0.8495)
    thresholds = [record.threshold(budget / 997) for budget in range(998)]
    assert thresholds == sorted(thresholds, reverse=True)
    for budget in (-0.01, 1.01, float("nan")):
        with pytest.raises(InputError, match="is not a share"):
            record.threshold(budget)


def test_a_text_without_facts_calibrates_to_no_calls_and_says_so(
    tmp_path: Path, delegated: TrainedModel, prepared: PreparedData, caplog: pytest.LogCaptureFixture
) -> None:
    empty = labelled(tmp_path / "labels", prepared, by_chance(0.0))
    with caplog.at_level(logging.WARNING):
        result = calibrate.stage(
            Run.local(tmp_path / "out", "calibrate"), CFG, delegated=delegated, prepared=prepared, labels=empty
        )
    record = result.load()
    assert not record.factual
    assert {record.threshold(budget) for budget in (0.0, 0.15, 1.0)} == {float("inf")}
    assert "calibrated to zero calls" in caplog.text
    assert "calibrated to zero calls" in result.details["warnings"][0]


def test_the_limit_on_tokens_is_kept_and_one_document_is_enough(
    tmp_path: Path, delegated: TrainedModel, prepared: PreparedData, labels: Labels
) -> None:
    for limit in (1, 300):
        cfg = CFG.model_copy(update={"max_tokens": limit})
        result = calibrate.stage(
            Run.local(tmp_path / str(limit), "calibrate"), cfg, delegated=delegated, prepared=prepared, labels=labels
        )
        assert result.metrics["tokens"] <= max(limit, fakes.SHAPE.context_length)
    assert Calibration.open(tmp_path / "1").load().expected_vs_realised == []


def test_labels_of_other_tokens_and_a_diverged_model_are_refused(
    tmp_path: Path, delegated: TrainedModel, prepared: PreparedData, labels: Labels
) -> None:
    index = json.loads((labels.folder / Labels.FACTS / "index.json").read_text())
    folder = tmp_path / "labels"
    (folder / Labels.FACTS).mkdir(parents=True)
    for bits in (labels.folder / Labels.FACTS).glob("*.bits"):
        (folder / Labels.FACTS / bits.name).write_bytes(bits.read_bytes())
    (folder / Labels.FACTS / "index.json").write_text(json.dumps({**index, "tokenizer": "0" * 64}))
    other = Run.local(folder, "label").seal({}, view=Labels)
    with pytest.raises(ArtifactError, match="made for another tokenizer"):
        calibrate.stage(
            Run.local(tmp_path / "a", "calibrate"), CFG, delegated=delegated, prepared=prepared, labels=other
        )
    model = fakes.speaker(TOKENS)
    with torch.no_grad():
        model.embedding.weight.fill_(float("nan"))
    run = Run.local(tmp_path / "model", "delegate")
    save_model(model, run.folder / TrainedModel.MODEL, TOKENS.special)
    with pytest.raises(ArtifactError, match="no finite prediction"):
        calibrate.stage(
            Run.local(tmp_path / "b", "calibrate"),
            CFG,
            delegated=run.seal({}, view=TrainedModel),
            prepared=prepared,
            labels=labels,
        )


def test_a_record_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    artifact = Run.local(tmp_path, "calibrate").seal({}, view=Calibration)
    with pytest.raises(ArtifactError, match=r"has no 'calibration\.json'"):
        artifact.load()
    path = tmp_path / Calibration.RECORD
    record = fakes.calibration()
    record.save(path)
    assert artifact.load() == record
    for quantiles in ([0.0] * 5, [float(LEVELS - i) for i in range(LEVELS)]):
        path.write_text(json.dumps({**json.loads(record.model_dump_json()), "quantiles": quantiles}))
        with pytest.raises(ArtifactError, match="cannot be read as a calibration"):
            artifact.load()
    with pytest.raises(ArtifactError, match="has no quantiles of 'margin'"):
        record.model_copy(update={"post_hoc": {}}).threshold(0.5, "margin")


def test_saturated_probabilities_stay_in_order() -> None:
    """CALL left out of the kept softmax: nearly all facts at one. Doubles keep them apart, quantiles in order."""
    logits = torch.zeros(1000, 9)
    logits[:, 4] = torch.linspace(10, 30, 1000)
    scores = call_probability(logits, 4).numpy()
    assert len(np.unique(scores)) == 1000
