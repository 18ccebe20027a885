"""The calculator completes an open calculation exactly, and says nothing anywhere else."""

import pytest

from components.cascade.config import CascadeConfig, HelperConfig
from components.cascade.decoding import Cascade, CascadeRequest
from components.cascade.helpers import Reply, open_helper
from components.cascade.helpers.base import Helper
from components.cascade.helpers.calculator import CalculatorHelper
from components.data.tokenizer import TextTokenizer, train_tokenizer
from components.model.generate import Sampling
from tests.cascade.helpers.conftest import call
from tests.fakes import calibration, speaker, start

TOKENS = TextTokenizer(train_tokenizer([f"He has {i} + {i} = <<{i}+{i}={i + i}>>{i + i}." for i in range(2000)], 384))


def said(helper: Helper, *arguments: object) -> str:
    (reply,) = helper.answer([call(*arguments)])  # type: ignore[arg-type]
    assert isinstance(reply, Reply)
    assert reply.tokens == 0
    return reply.text


def test_a_unit_is_a_token_the_number_or_the_number_with_its_closing() -> None:
    helper = CalculatorHelper(TOKENS)
    assert said(helper, "He has <<1234*1000=", "entity") == "1234000>>"
    assert said(helper, "He has <<1234*1000=", "word") == "1234000"
    assert said(helper, "He has <<1234*1000=", "token") == TOKENS.decode(TOKENS.encode("1234000")[:1])
    assert said(helper, "He has <<1234*1000=1234000", "word") == ">>"
    assert said(helper, "He has <<2-7.5=", "word") == "-5.5"
    assert said(CalculatorHelper(), "He has <<2-7.5=", "token") == "-5.5"


@pytest.mark.parametrize(
    "text", ["", "He has 2 + 2 =", "<<2+2", "<<2+2=4>>", "<<2+2=5", "<<1/0=", "<<9**9**9=", "<<exit()="]
)
def test_it_says_nothing_where_it_has_nothing_to_calculate(text: str) -> None:
    for unit in ("token", "word", "entity"):
        assert said(CalculatorHelper(TOKENS), text, unit) == ""


def test_called_again_and_again_it_writes_the_result() -> None:
    helper = CalculatorHelper(TOKENS)
    text = "He has <<987654321*100000000000+.25="
    while not text.endswith(">>"):
        text += said(helper, text, "entity", 2)
    assert text.endswith("=98765432100000000000.25>>")


def test_the_configuration_opens_it_and_a_cascade_writes_with_it() -> None:
    helper = open_helper(HelperConfig(kind="calculator"))
    config = CascadeConfig(helper=HelperConfig(kind="calculator"), unit="entity", rule="fixed", budget=1.0)
    cascade = Cascade(speaker(TOKENS), TOKENS, helper, calibration(), config)
    prompt = start(TOKENS, "He has 50 + 51 = <<50+51=")
    (answer,) = cascade.answers([CascadeRequest(prompt, Sampling(temperature=0.0, max_tokens=12))])
    assert TOKENS.decode(answer.ids).startswith("101>>")
    assert answer.tokens[0].author == "helper"
    assert answer.summary.empty_calls == answer.summary.calls - 1  # behind the result there is nothing to calculate
