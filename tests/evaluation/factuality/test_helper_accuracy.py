import numpy as np
import pytest

from components.cascade.config import CascadeConfig
from components.cascade.helpers.base import Call, HelperError
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.evaluation.factuality.helper_accuracy import ask_helper
from components.evaluation.factuality.predictions import predict
from components.labelling.labels import FactBits
from tests.evaluation.conftest import SHAPE
from tests.fakes import Told, speaker


@pytest.fixture(scope="module")
def documents(prepared: PreparedData) -> list[int]:
    """The longest three."""
    split = prepared.shards().splits["test"]
    return np.argsort(split.documents[:, 1])[-3:].tolist()


@pytest.fixture(scope="module")
def texts(prepared: PreparedData, documents: list[int]) -> list[list[int]]:
    split = prepared.shards().splits["test"]
    return [split.document(i).tolist() for i in documents]


@pytest.fixture
def asked(prepared: PreparedData, tokenizer: TextTokenizer, labels: FactBits, documents: list[int]):  # type: ignore[no-untyped-def]
    split = prepared.shards().splits["test"]
    found = predict(speaker(tokenizer, shape=SHAPE), tokenizer, split, documents, labels)
    # Highest where the documents have parted already, and before their ends.
    score = -np.abs(found.place - 40.0)

    def ask(helper: Told, budget: float, sample: int = 1000, factual: bool | None = None):  # type: ignore[no-untyped-def]
        cfg = CascadeConfig(budget=budget, unit="word")
        if factual is not None:
            found.factual[:] = factual
        return ask_helper(helper, tokenizer, split, documents, found, score, cfg, sample), len(found)

    return ask


def test_the_helper_sees_the_gold_text_before_each_call(asked, texts, tokenizer) -> None:  # type: ignore[no-untyped-def]
    whole = {tuple(ids): tokenizer.decode(ids) for ids in texts}

    def gold(call: Call) -> str:
        assert call.ids[0] == tokenizer.end_of_text_id
        before = call.ids[1:]
        (ids,) = (ids for ids in whole if ids[: len(before)] == before)
        assert whole[ids].startswith(call.text)
        return whole[ids][len(call.text) :][:6]

    helper = Told(gold)
    scores, positions = asked(helper, 0.1)
    assert scores.calls == round(0.1 * positions) == len(helper.calls)
    assert (scores.right, scores.empty, scores.failed) == (1.0, 0.0, 0.0)
    assert all(call.unit == "word" for call in helper.calls)
    # One session each, all forgotten.
    assert len(set(helper.forgotten)) == len(helper.calls)
    assert sorted(call.session for call in helper.calls) == sorted(helper.forgotten)
    # Called where the score is highest.
    assert {len(call.ids) - 1 for call in helper.calls} <= set(range(25, 56))


def test_wrong_empty_and_failed_replies_are_told_apart(asked) -> None:  # type: ignore[no-untyped-def]
    assert asked(Told(" Xanadu"), 0.1)[0].right == 0.0
    empty = asked(Told(""), 0.1)[0]
    assert (empty.right, empty.empty, empty.failed) == (0.0, 1.0, 0.0)
    failed = asked(Told(HelperError("down")), 0.1)[0]
    assert (failed.right, failed.empty, failed.failed, failed.seconds) == (0.0, 0.0, 1.0, 0.0)
    turns = iter(range(1000))
    mixed = asked(Told(lambda call: (HelperError("x"), "", " Xanadu", "")[next(turns) % 4]), 0.1, sample=8)[0]
    assert (mixed.calls, mixed.right, mixed.empty, mixed.failed) == (8, 0.0, 0.5, 0.25)


def test_without_calls_there_are_no_figures(asked) -> None:  # type: ignore[no-untyped-def]
    helper = Told(" x")
    scores, _ = asked(helper, 0.0)
    assert (scores.calls, scores.right, scores.empty, scores.failed, scores.seconds) == (0, 0.0, 0.0, 0.0, 0.0)
    assert not helper.calls


def test_the_sample_is_fixed_and_no_larger_than_asked_for(asked) -> None:  # type: ignore[no-untyped-def]
    one, other = Told(" x"), Told(" x")
    assert asked(one, 0.2, sample=7)[0].calls == 7
    asked(other, 0.2, sample=7)
    assert [call.text for call in one.calls] == [call.text for call in other.calls]


def test_calls_at_facts_are_counted_apart(asked) -> None:  # type: ignore[no-untyped-def]
    turns = iter(range(1000))
    helper = Told(lambda call: (HelperError("x"), "", " Xanadu", "")[next(turns) % 4])
    found = asked(helper, 0.1, sample=8, factual=True)[0].facts
    assert (found.calls, found.right, found.answered) == (8, 0.0, 0.25)
    assert asked(helper, 0.1, sample=8, factual=False)[0].facts is None
    assert asked(Told(" x"), 0.1, factual=True)[0].facts_without_document is None, "it looks nothing up"


def test_a_helper_that_looks_things_up_is_asked_again_with_the_document_hidden(asked, texts, tokenizer) -> None:  # type: ignore[no-untyped-def]
    whole = {tokenizer.decode(ids) for ids in texts}

    def look_up(call: Call) -> str:
        (text,) = (text for text in whole if text.startswith(call.text))
        return "" if text in call.hidden else text[len(call.text) :][:6]

    helper = Told(look_up)
    helper.name = "retrieval"
    found = asked(helper, 0.1, sample=8, factual=True)[0]
    assert (found.facts.right, found.facts.answered) == (1.0, 1.0)
    assert (found.facts_without_document.right, found.facts_without_document.answered) == (0.0, 0.0)
    assert found.right_without_document == 0.0
