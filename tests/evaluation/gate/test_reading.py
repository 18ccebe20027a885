"""Reading with calls, against a helper that does as it is told."""

from collections.abc import Callable

import numpy as np
import pytest

from components.cascade.config import CascadeConfig
from components.cascade.helpers.base import Call, HelperError
from components.data.prepared import PreparedData
from components.data.tokenizer import TextTokenizer
from components.evaluation.factuality.predictions import Predictions, predict_texts
from components.evaluation.gate.reading import Tally, read_documents
from components.evaluation.gate.served import ServedModel
from tests.evaluation.conftest import SHAPE
from tests.fakes import Told, calibration, speaker

TEXTS = ["Ada was born in Orlen and worked as a weaver.", "Bram was born in Tervik and worked as a smith."]


@pytest.fixture
def tokenizer(prepared: PreparedData) -> TextTokenizer:
    return prepared.tokenizer()


@pytest.fixture
def read(tokenizer: TextTokenizer) -> Callable[..., list[Tally]]:
    model = speaker(tokenizer, shape=SHAPE)
    ids = [np.array(tokenizer.encode(text)) for text in TEXTS]
    joined = predict_texts(model, tokenizer, ids, [np.ones(len(each), dtype=bool) for each in ids])
    documents: list[Predictions] = [joined.between(0, len(ids[0]) + 1), joined.between(len(ids[0]) + 1, len(joined))]

    def run(helper: Told | None, budget: float, unit: str = "word") -> list[Tally]:
        config = CascadeConfig.model_validate({"budget": budget, "unit": unit, "rule": "fixed"})
        return read_documents(ServedModel(model, tokenizer, helper, calibration(), config), documents)

    return run


def gold(call: Call) -> str:
    """The next word of the text that begins like the call's."""
    (text,) = [text for text in TEXTS if text.startswith(call.text) and len(text) > len(call.text)] or [TEXTS[0]]
    rest = text[len(call.text) :]
    return rest[: rest.find(" ", 1)] if " " in rest[1:] else rest


def test_a_helper_that_knows_everything_writes_it_word_by_word(
    read: Callable[..., list[Tally]], tokenizer: TextTokenizer
) -> None:
    helper = Told(lambda call: gold(call) if call.text else TEXTS[0].split(" ")[0])
    first = read(helper, budget=1.0)[0]
    assert first.right == first.facts == len(tokenizer.encode(TEXTS[0]))
    assert first.decisions == first.calls == len(TEXTS[0].split(" "))
    assert first.wasted == 0
    # Both documents are asked about together, and forgotten at the end.
    assert len(helper.batches[0]) == 2
    assert sorted(helper.forgotten) == ["gate 0", "gate 1"]


def test_without_a_helper_the_model_decides_every_token_itself(
    read: Callable[..., list[Tally]], tokenizer: TextTokenizer
) -> None:
    for tally, text in zip(read(None, budget=0.0), TEXTS, strict=True):
        assert (tally.calls, tally.decisions, tally.facts) == (0, *[len(tokenizer.encode(text))] * 2)
        assert tally.right < tally.facts


@pytest.mark.parametrize("said", ["", HelperError("down")])
def test_where_the_helper_says_nothing_the_own_token_stands(
    read: Callable[..., list[Tally]], said: str | HelperError
) -> None:
    alone, asked = read(None, budget=0.0), read(Told(said), budget=1.0)
    for before, tally in zip(alone, asked, strict=True):
        assert (tally.right, tally.facts, tally.decisions) == (before.right, before.facts, before.decisions)
        assert tally.calls == tally.decisions
        assert tally.failed == (tally.calls if isinstance(said, HelperError) else 0)


def test_a_wrong_reply_spoils_one_token_and_the_true_text_goes_on(read: Callable[..., list[Tally]]) -> None:
    for tally in read(Told(" nonsense"), budget=1.0):
        assert tally.right == 0
        assert tally.calls == tally.decisions == tally.facts
