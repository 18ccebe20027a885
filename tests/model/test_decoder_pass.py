import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.model.config import ModelConfig
from components.model.decoder_pass import BLOCK, PASS_TOKENS, PIECE_TOKENS, DecoderPass
from components.model.transformer import Transformer
from tests.model.conftest import VOCABULARY


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def after(model: Transformer, ids: list[int]) -> torch.Tensor:
    """The hidden state of the last of ``ids`` by the model itself."""
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0, -1]


def long_model(context_length: int = 700) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(
        layers=2, width=32, hidden_width=48, heads=4, kv_heads=2, context_length=context_length, rope_theta=500.0
    )
    model = Transformer(config, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3) if parameter.ndim == 2 else parameter.uniform_(0.5, 1.5)
    return model


@settings(max_examples=12, deadline=None)
@given(pieces=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5))
def test_rows_may_grow_by_any_counts_in_any_turns(pieces: list[list[int]]) -> None:
    """Each inner list: how many tokens each of three rows reads in that turn; 0 is a row that takes no part."""
    model = long_model(64)
    forward = DecoderPass(model)
    cache = forward.new_cache()
    for _ in range(3):
        cache.add()
    read: list[list[int]] = [[], [], []]
    for turn, counts in enumerate(pieces):
        unread = {row: prompt(count, 10 * turn + row) for row, count in enumerate(counts) if count}
        for row, hidden in zip(unread, forward(cache, unread) if unread else (), strict=True):
            read[row] += unread[row]
            torch.testing.assert_close(hidden, after(model, read[row]), atol=1e-4, rtol=1e-4)
    assert cache.lengths == [len(ids) for ids in read]


def test_rows_that_leave_and_rows_that_are_cut_back_do_not_disturb_the_others(model: Transformer) -> None:
    forward = DecoderPass(model)
    cache = forward.new_cache()
    texts = [prompt(length, length) for length in (20, 5, 33)]
    forward(cache, {cache.add(): ids for ids in texts})
    cache.remove(0)  # the row of 33 tokens takes its place
    cache.truncate(0, 11)
    new = cache.add()
    read = {0: [3, 4], 1: [5], new: [6, 7, 8]}
    whole = ([*texts[2][:11], 3, 4], [*texts[1], 5], [6, 7, 8])
    for hidden, ids in zip(forward(cache, read), whole, strict=True):
        torch.testing.assert_close(hidden, after(model, ids), atol=1e-4, rtol=1e-4)
    assert cache.lengths == [13, 6, 3]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_to_the_last_bit_whatever_else_is_read(threads: int, dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        forward = DecoderPass(long_model().to(dtype))
        texts = [prompt(length, length) for length in (1, 40, 2, 130, 65, 64, 17, 300)]

        def states(members: list[int], steps: int = 12) -> list[list[torch.Tensor]]:
            cache = forward.new_cache()
            unread = {cache.add(): texts[member] for member in members}
            found: list[list[torch.Tensor]] = [[] for _ in members]
            for step in range(steps):
                for row, logits in enumerate(forward.logits(forward(cache, unread))):
                    found[row].append(logits)
                unread = {row: [7 + step] for row in range(len(members))}
            return found

        together = states(list(range(len(texts))))
        for member in range(len(texts)):
            (alone,) = states([member])
            assert all(torch.equal(*pair) for pair in zip(alone, together[member], strict=True)), member
        for one, other in zip(states([3, 1, 0]), (together[3], together[1], together[0]), strict=True):
            assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    finally:
        torch.set_num_threads(before)


def test_much_is_read_in_pieces() -> None:
    model = long_model()
    forward = DecoderPass(model)
    cache, texts = forward.new_cache(), [prompt(length, length) for length in (600, 5, 256, 257, 512, 300)]
    passes = []
    model.embedding.register_forward_pre_hook(lambda module, inputs: passes.append(inputs[0].shape))
    hidden = forward.read(cache, {cache.add(): ids for ids in texts})
    assert max(shape.numel() for shape in passes) <= PASS_TOKENS
    assert len(passes) > 2
    assert cache.lengths == [len(ids) for ids in texts]
    assert PIECE_TOKENS % BLOCK == 0
    for state, ids in zip(hidden, texts, strict=True):
        torch.testing.assert_close(state, after(model, ids), atol=2e-4, rtol=1e-3)


def test_impossible_extensions_are_refused(model: Transformer) -> None:
    forward = DecoderPass(model)
    cache = forward.new_cache()
    row = cache.add()
    with pytest.raises(ValueError, match="65 tokens exceed the context of 64"):
        forward(cache, {row: [5] * 65})
    with pytest.raises(ValueError, match="cannot truncate row 0 of 0 tokens to 1"):
        cache.truncate(row, 1)
    with pytest.raises(IndexError):
        forward(cache, {row: [VOCABULARY]})
    assert cache.lengths == [0]


def test_a_layer_that_is_more_than_a_matrix_is_called_as_it_is(model: Transformer) -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return 2.0 * super().forward(rows)

    for name in ("query", "output"):
        layer = getattr(model.blocks[0].attention, name)
        doubled = Doubled(layer.in_features, layer.out_features, bias=False)
        doubled.weight = layer.weight
        setattr(model.blocks[0].attention, name, doubled)
    forward = DecoderPass(model)
    cache, ids = forward.new_cache(), prompt(9)
    torch.testing.assert_close(forward(cache, {cache.add(): ids})[0], after(model, ids), atol=1e-4, rtol=1e-4)
