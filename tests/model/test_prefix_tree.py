"""Texts that share beginnings are read as if each stood alone, to the last bit whoever stands beside them."""

import pytest
import torch

from components.model.config import ModelConfig
from components.model.prefix_tree import TILE, Segment, read_segments
from components.model.transformer import Transformer

SHAPE = ModelConfig(name="test", layers=2, width=64, hidden_width=128, heads=4, kv_heads=2, context_length=96)
VOCABULARY = 320


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(SHAPE, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)  # so that attention is sharp, and a wrong key shows
    return model


def text(seed: int, length: int) -> tuple[int, ...]:
    return tuple(torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def tree() -> list[Segment]:
    """Three generations, and lengths on both sides of every rounding."""
    roots = [Segment(text(seed, length)) for seed, length in enumerate((1, 7, 8, 9, 16, 17, 40))]
    children = [Segment(text(10 * i + n, n), root) for i, root in enumerate(roots) for n in (1, 8, 11)]
    return [*roots, *children, *(Segment(text(7, 5), child) for child in children[:4])]


def whole(segment: Segment) -> list[int]:
    before = whole(segment.before) if segment.before is not None else []
    return [*before, *segment.ids]


def test_hidden_states_equal_those_of_the_whole_text_read_alone(model: Transformer) -> None:
    segments = tree()
    hidden = read_segments(model, segments)
    start = 0
    for segment in segments:
        with torch.inference_mode():
            alone = model(torch.tensor([whole(segment)]))[0, segment.start :]
        torch.testing.assert_close(hidden[start : start + len(segment.ids)], alone, rtol=2e-5, atol=2e-5)
        start += len(segment.ids)
    assert start == len(hidden)


def test_a_token_has_the_same_bits_whatever_else_is_read(model: Transformer) -> None:
    root = Segment(text(1, 21))
    child = Segment(text(2, 9), root)
    alone = read_segments(model, [root, child])
    crowd = [Segment(text(seed, 1 + seed % 60)) for seed in range(TILE // 10)]
    beside = read_segments(model, [*crowd, root, *tree(), child])
    first = sum(len(each.ids) for each in crowd)
    assert torch.equal(beside[first : first + 21], alone[:21])
    assert torch.equal(beside[-9:], alone[21:])


def test_a_text_longer_than_the_context_is_refused(model: Transformer) -> None:
    root = Segment(text(1, 90))
    with pytest.raises(ValueError, match="97 tokens exceeds the context of 96"):
        read_segments(model, [root, Segment(text(2, 7), root)])
