"""The task ``text``: documents of any source, sums over them, and what follows from the sums."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cascade.calibration import NEVER_CALLS
from components.cascade.config import CascadeConfig
from components.core.errors import InputError
from components.data.config import DataConfig
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.evaluation.aggregates import aggregates
from components.evaluation.evaluate_config import EvaluateConfig, EvaluateStageConfig, TextConfig
from components.evaluation.evaluation_report import calibration_errors, headlines
from components.evaluation.gate.served import ServedModel
from components.evaluation.score_table import Score
from components.evaluation.text import BINS, TextWork, bins, gathered, pieces
from components.evaluation.text_models.ours import LacewingModel
from components.evaluation.texts import Text, read_texts
from components.labelling.annotators.capitals import Capitals
from components.model.transformer import Transformer
from tests.fakes import Told, calibration


@pytest.fixture(scope="module")
def model(trained: Transformer, tokenizer: TextTokenizer) -> LacewingModel:
    served = ServedModel(trained, tokenizer, None, NEVER_CALLS, CascadeConfig(budget=0.0))
    return LacewingModel("ada", "1", served)


@pytest.fixture(scope="module")
def work(prepared: PreparedData) -> TextWork:
    texts = [
        Text(domain, f"{domain}:{number}", text)
        for domain, numbers in (("a", range(5)), ("b", range(5, 8)))
        for number, text in zip(numbers, prepared.texts("test", numbers), strict=True)
    ]
    annotator = Capitals()
    return TextWork(texts, lambda spelled: [each.words for each in annotator.annotate(spelled)])


def config(**text: object) -> EvaluateStageConfig:
    return EvaluateStageConfig(evaluate=EvaluateConfig(text=TextConfig.model_validate(text)))


def made(model: LacewingModel, work: TextWork, **text: object) -> list[Score]:
    return [row for piece in pieces(model, work, config(**text)).values() for row in piece()]


def test_bits_of_a_document_are_those_of_its_tokens(model: LacewingModel, work: TextWork) -> None:
    found = {row.document: row for row in made(model, work) if row.metric == "bits_per_byte"}
    assert set(found) == {text.id for text in work.texts}
    for text, scores in zip(work.texts, model.token_scores([text.text for text in work.texts]), strict=True):
        row = found[text.id]
        assert row.score == pytest.approx(scores.nats.sum() / math.log(2))
        assert row.weight == len(text.text.encode())
        assert (row.task, row.tokens) == (f"text {text.domain}", len(scores.nats))


def test_classes_of_tokens_add_up_to_the_document(model: LacewingModel, work: TextWork) -> None:
    rows = made(model, work)
    sums = {name: sum(row.score for row in rows if row.metric == name) for name in {row.metric for row in rows}}
    sizes = {name: sum(row.weight for row in rows if row.metric == name) for name in sums}
    for parts in (sums, sizes):
        whole = parts["bits_per_byte_factual"] + parts["bits_per_byte_other"]
        assert whole == pytest.approx(parts["bits_per_byte"])
    assert sizes["bits_per_byte_factual"] > 0
    assert "bits_per_byte_delegated" not in sums  # it calls no one


def test_rows_do_not_depend_on_the_size_of_a_piece(model: LacewingModel, work: TextWork) -> None:
    def without_time(rows: list[Score]) -> list[Score]:
        return [replace(row, seconds=0.0) for row in rows]

    assert len(pieces(model, work, config(piece_bytes=1, samples=0))) == len(work.texts)
    assert without_time(made(model, work, piece_bytes=1)) == without_time(made(model, work))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_the_calibration_error_is_that_of_all_tokens_together(tokens: list[tuple[float, bool]]) -> None:
    """However the tokens are spread over documents, by the definition of Guo et al. (2017)."""
    confidence = np.array([sure for sure, _ in tokens])
    right = np.array([good for _, good in tokens])
    place = bins(confidence)
    assert ((place >= 0) & (place < BINS)).all()
    assert (confidence <= (place + 1) / BINS + 1e-12).all()
    expected = sum(
        abs(right[place == number].mean() - confidence[place == number].mean()) * (place == number).mean()
        for number in set(place.tolist())
    )
    rows = [
        Score("m", "text a", str(n % 7), metric, float(value), 1.0, f"bin {place[n] + 1:02d}")
        for n, (sure, good) in enumerate(tokens)
        for metric, value in (("confidence", sure), ("accuracy", good))
    ]
    assert calibration_errors(aggregates(rows))["text a"] == pytest.approx(expected, abs=1e-12)


def test_a_model_that_has_learnt_the_text_is_better_calibrated_than_one_that_claims_to_be_sure(
    model: LacewingModel, work: TextWork
) -> None:
    metrics = headlines(aggregates(made(model, work, samples=0)))
    assert metrics["text a calibration_error"] < 0.1
    assert 0 < metrics["text a bits_per_byte"] < 1.5


def test_a_cascade_has_classes_by_what_it_would_delegate_and_a_curve(model: LacewingModel, work: TextWork) -> None:
    served = replace(
        model.served,
        helper=Told("no such town"),
        calibration=calibration(),
        config=CascadeConfig(budget=0.2, call_score="margin"),
    )
    rows = made(replace(model, served=served), work, budgets=[0.0, 0.5], samples=0)
    budgets = {row.format for row in rows if row.metric == "calls"}
    assert budgets == {"budget 0.000", "budget 0.200", "budget 0.500"}
    calls = {b: sum(row.score for row in rows if (row.metric, row.format) == ("calls", b)) for b in sorted(budgets)}
    assert calls["budget 0.000"] == 0 < calls["budget 0.200"] <= calls["budget 0.500"]
    right = {b: sum(row.score for row in rows if (row.metric, row.format) == ("facts_right", b)) for b in calls}
    assert right["budget 0.500"] <= right["budget 0.000"]  # a helper that is always wrong helps nobody
    delegated = sum(row.weight for row in rows if row.metric == "bits_per_byte_delegated")
    kept = sum(row.weight for row in rows if row.metric == "bits_per_byte_kept")
    assert 0 < delegated < kept
    assert delegated + kept == sum(row.weight for row in rows if row.metric == "bits_per_byte")


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def sourced(sources: list[str], **text: object) -> EvaluateStageConfig:
    return config(**text).model_copy(update={"data": DataConfig(sources=sources)})


def test_texts_are_those_of_every_source_within_the_limits(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [f"Document {n} of one." for n in range(30)])
    two = write(tmp_path / "two.jsonl", ["Only this."])
    texts, world = read_texts(sourced([one, two], max_documents=10), tmp_path / "room", held_out=False)
    assert [text.domain for text in texts] == [one] * 10 + [two]
    assert len({text.id for text in texts}) == 11
    assert world is None
    few, _ = read_texts(sourced([one], max_bytes=50), tmp_path / "room", held_out=False)
    assert few == texts[: len(few)]  # a larger limit adds documents and changes none
    assert sum(len(text.text) for text in few) <= 50


def test_held_out_documents_are_those_that_prepare_keeps_for_tests(tmp_path: Path) -> None:
    from components.core.run import Run
    from components.data.prepare import stage

    spelled = [f"Document {n} tells of the river {n * n} and the town {n % 7} beside it." for n in range(400)]
    source = write(tmp_path / "one.jsonl", spelled)
    cfg = DataConfig(sources=[source], vocab_size=320, test_fraction=0.1)
    prepared = stage(Run.local(tmp_path / "prepared", "prepare"), cfg)
    split = prepared.shards().splits["test"]
    expected = set(prepared.texts("test", range(split.n_documents)))
    wanted = EvaluateStageConfig(data=cfg)
    found, _ = read_texts(wanted, tmp_path / "room", held_out=True)
    assert {text.text for text in found} == expected


def test_a_source_without_a_held_out_document_is_refused_with_what_to_do(tmp_path: Path) -> None:
    source = write(tmp_path / "one.jsonl", ["Only this."])
    with pytest.raises(InputError, match=r"no document is held out from training.*text.documents=all"):
        read_texts(sourced([source]), tmp_path / "room", held_out=True)


def test_the_closed_world_has_exact_labels_without_a_prepared_artifact(tmp_path: Path, model: LacewingModel) -> None:
    small = DataConfig(world=DataConfig().world.model_copy(update={"entities": 40}))
    wanted = EvaluateStageConfig(data=small)
    work = gathered(wanted, tmp_path / "room", held_out=False)
    assert work.words is not None
    (words,) = work.words([work.texts[0].text])
    assert len(words) > 0
    capitals = Capitals().annotate([work.texts[0].text])[0].words
    assert words.tolist() != capitals.tolist()
