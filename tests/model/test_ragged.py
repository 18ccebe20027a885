import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.model.config import ModelConfig
from components.model.ragged import RaggedCache
from components.model.transformer import KeyValueCache, Transformer
from tests.model.conftest import VOCABULARY


def read_rows(model: Transformer, cache: RaggedCache, unread: dict[int, list[int]]) -> dict[int, torch.Tensor]:
    """Read all of it in one pass; the state after the last token of each row."""
    counts = [len(ids) for ids in unread.values()]
    padded = [[*ids, *[0] * (max(counts) - len(ids))] for ids in unread.values()]
    hidden = model(torch.tensor(padded), cache=cache.extending(list(unread), counts))
    return {row: hidden[at, count - 1] for at, (row, count) in enumerate(zip(unread, counts, strict=True))}


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@settings(max_examples=12, deadline=None)
@given(pieces=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5))
def test_rows_may_grow_by_any_counts_in_any_turns(pieces: list[list[int]]) -> None:
    """Each inner list: how many tokens each of three rows reads in that turn; 0 is a row that takes no part."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(layers=2, width=24, hidden_width=40, heads=4, kv_heads=2), VOCABULARY).eval()
    cache = model.ragged_cache()
    for _ in range(3):
        cache.add()
    read: list[list[int]] = [[], [], []]
    with torch.inference_mode():
        for turn, counts in enumerate(pieces):
            unread = {row: prompt(count, 10 * turn + row) for row, count in enumerate(counts) if count}
            for row, hidden in (read_rows(model, cache, unread) if unread else {}).items():
                read[row] += unread[row]
                torch.testing.assert_close(hidden, model(torch.tensor([read[row]]))[0, -1], atol=1e-5, rtol=1e-4)
    assert cache.lengths == [len(ids) for ids in read]


def test_one_row_gives_exactly_what_the_plain_cache_gives(model: Transformer) -> None:
    ragged, plain = model.ragged_cache(), KeyValueCache.for_model(model)
    row = ragged.add()
    with torch.inference_mode():
        for count in (9, 1, 1, 4, 1):
            tokens = torch.tensor([prompt(count, count)])
            assert torch.equal(model(tokens, cache=ragged.extending([row], [count])), model(tokens, cache=plain))


def test_rows_that_leave_and_rows_that_are_cut_back_do_not_disturb_the_others(model: Transformer) -> None:
    cache = model.ragged_cache()
    texts = [prompt(length, length) for length in (20, 5, 33)]
    with torch.inference_mode():
        read_rows(model, cache, {cache.add(): ids for ids in texts})
    cache.remove(0)  # the row of 33 tokens takes its place
    cache.truncate(0, 11)
    new = cache.add()
    with torch.inference_mode():
        hidden = read_rows(model, cache, {0: [3, 4], 1: [5], new: [6, 7, 8]})
        for row, ids in ((0, [*texts[2][:11], 3, 4]), (1, [*texts[1], 5]), (new, [6, 7, 8])):
            torch.testing.assert_close(hidden[row], model(torch.tensor([ids]))[0, -1], atol=1e-5, rtol=1e-4)
    assert cache.lengths == [13, 6, 3]


def test_impossible_extensions_are_refused(model: Transformer) -> None:
    cache = RaggedCache(model.config)
    row = cache.add()
    with pytest.raises(ValueError, match="65 tokens exceed the context of 64"):
        cache.extending([row], [65])
    for rows, counts in (([row, row], [1, 1]), ([row], [0]), ([], [])):
        with pytest.raises(ValueError, match="one positive count for each row"):
            cache.extending(rows, counts)
    with pytest.raises(ValueError, match="cannot truncate row 0 of 0 tokens to 1"):
        cache.truncate(row, 1)
