"""The compiled pass: torch's numbers, and the same bits however a text is read."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.model.compiled import basics
from components.model.compiled.forward_pass import CompiledPass, CompiledProduct, compilable_model
from components.model.config import ModelConfig
from components.model.decoder_cache import DecoderCache
from components.model.decoder_pass import DecoderPass
from components.model.transformer import Transformer
from tests.model.conftest import VOCABULARY
from tests.model.test_adapters import put_on

SHAPES = [
    ModelConfig(layers=2, width=36, hidden_width=50, heads=6, kv_heads=3, context_length=90, rope_theta=500.0),
    ModelConfig(layers=1, width=64, hidden_width=96, heads=3, kv_heads=1, context_length=90, head_size=22),
]
"""Sizes that fill whole tiles, and sizes that do not; heads of another size than the width divided by their number."""


def network(shape: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(shape, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2) if parameter.ndim == 2 else parameter.uniform_(0.5, 1.5)
    return model


def ids(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def read(compiled: CompiledPass, cache: DecoderCache, unread: dict[int, list[int]]) -> Tensor:
    cache.reserve(max(cache.lengths[row] + len(some) for row, some in unread.items()))
    hidden = compiled(cache, unread)
    for row, some in unread.items():
        cache.lengths[row] += len(some)
    return hidden


def in_pieces(model: Transformer, compiled: CompiledPass, text: Sequence[int], cuts: Sequence[int]) -> Tensor:
    """The state after the last token of a text that is read from cut to cut."""
    cache = DecoderCache(model.config)
    cache.add()
    hidden = torch.empty(0)
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for begin, end in pairwise(borders):
        hidden = read(compiled, cache, {0: list(text[begin:end])})
    return hidden[0]


@pytest.mark.parametrize("shape", SHAPES, ids=["whole", "odd"])
def test_states_are_those_of_the_model(shape: ModelConfig) -> None:
    model = network(shape)
    compiled, cache = CompiledPass(model), DecoderCache(shape)
    texts = [ids(length, length) for length in (1, 40, 7)]
    unread = {cache.add(): list(text) for text in texts}
    for step in range(3):
        for text, hidden in zip(texts, read(compiled, cache, unread), strict=True):
            with torch.inference_mode():
                expected = model(torch.tensor([text]))[0, -1]
            torch.testing.assert_close(hidden, expected, atol=2e-5, rtol=2e-5)
        unread = {row: [step + 5] for row in range(len(texts))}
        texts = [[*text, step + 5] for text in texts]


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 80),
    cuts=st.lists(st.integers(1, 79), max_size=6),
    others=st.lists(st.integers(1, 30), max_size=9),
    shape=st.sampled_from(SHAPES),
)
def test_a_state_has_the_same_bits_however_its_text_is_read_and_whatever_else_is(
    length: int, cuts: list[int], others: list[int], shape: ModelConfig
) -> None:
    model, text = network(shape), ids(length)
    compiled = CompiledPass(model)
    whole = in_pieces(model, compiled, text, [])
    assert torch.equal(in_pieces(model, compiled, text, cuts), whole)
    cache = DecoderCache(shape)
    unread = {cache.add(): ids(other, seed=1 + at) for at, other in enumerate(others)} | {cache.add(): text}
    assert torch.equal(read(compiled, cache, unread)[-1], whole)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 40), inputs=st.integers(1, 70), outputs=st.integers(1, 140), seed=st.integers(0, 99))
def test_a_product_is_torchs_and_a_row_of_it_does_not_depend_on_the_others(
    rows: int, inputs: int, outputs: int, seed: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(rows, inputs, generator=drawn), torch.randn(outputs, inputs, generator=drawn)
    product = CompiledProduct(weight)
    found = product(x)
    torch.testing.assert_close(found, F.linear(x, weight), atol=1e-4, rtol=1e-4)
    for row in (0, rows // 2, rows - 1):
        assert torch.equal(product(x[row : row + 1])[0], found[row])


def test_exp_is_right_to_two_units_of_the_last_place_and_knows_what_is_no_number() -> None:
    for x in np.linspace(-87, 88, 20_001, dtype=np.float32):
        expected = math.exp(float(x))
        assert abs(float(basics.exp(x)) - expected) <= 2.5e-7 * expected, x
    assert basics.exp(np.float32(-np.inf)) < 2e-38
    assert math.isnan(basics.exp(np.float32(np.nan)))


def test_a_weight_that_is_no_number_shows(model: Transformer) -> None:
    with torch.no_grad():
        model.blocks[0].get_submodule("attention.value").weight[3] = math.nan
    forward = DecoderPass(model)
    cache = forward.new_cache()
    assert forward(cache, {cache.add(): ids(5)}).isnan().all()


def test_only_small_plain_fp32_models_on_a_cpu_are_compiled() -> None:
    shape = SHAPES[0]
    assert compilable_model(network(shape))
    assert not compilable_model(network(shape).to(torch.bfloat16))
    wide = shape.model_copy(update={"width": 1200, "hidden_width": 1200, "layers": 1})
    assert not compilable_model(Transformer(wide, VOCABULARY))
    adapted = network(shape)
    put_on(adapted, kind="lora", rank=2)
    assert not compilable_model(adapted)
