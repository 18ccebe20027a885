import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.model.config import ModelConfig
from components.model.transformer import KeyValueCache, Transformer
from components.training.loader import document_starts
from tests.model.conftest import VOCABULARY


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_packed_documents_give_what_each_gives_alone(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    config = ModelConfig(layers=2, width=24, hidden_width=40, heads=4, kv_heads=2, context_length=128)
    model = Transformer(config, VOCABULARY)
    documents = [torch.cat([torch.zeros(1, dtype=torch.long), torch.randint(1, VOCABULARY, (n,))]) for n in lengths]
    packed = torch.cat(documents)[None]
    starts = torch.from_numpy(document_starts(packed.numpy(), boundary_id=0))
    together = model(packed, document_start=starts)[0]
    alone = torch.cat([model(document[None])[0] for document in documents])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_a_token_sees_nothing_after_it_and_nothing_of_other_documents(model: Transformer) -> None:
    tokens = torch.randint(1, VOCABULARY, (1, 20))
    tokens[0, 8] = 0
    starts = torch.from_numpy(document_starts(tokens.numpy(), boundary_id=0))
    embedded = model.embedding(tokens).detach().requires_grad_()
    model.embedding.forward = lambda _: embedded  # type: ignore[method-assign]
    model(tokens, document_start=starts)[0, 14].square().sum().backward()
    assert embedded.grad is not None
    reached = embedded.grad[0].abs().sum(dim=-1) > 0
    assert reached.nonzero().flatten().tolist() == list(range(8, 15))


@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 1, 12], [19, 1], [2, 9, 9]])
def test_a_cache_changes_nothing_however_the_tokens_arrive(model: Transformer, pieces: list[int]) -> None:
    tokens = torch.randint(0, VOCABULARY, (2, 20))
    cache = KeyValueCache.for_model(model, batch=2)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in tokens.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=1e-5, rtol=1e-5)
    assert cache.length == 20


def test_a_truncated_cache_continues_from_where_it_was_cut(model: Transformer) -> None:
    tokens = torch.randint(0, VOCABULARY, (1, 20))
    cache = KeyValueCache.for_model(model)
    with torch.no_grad():
        model(torch.cat([tokens[:, :12], torch.randint(0, VOCABULARY, (1, 5))], dim=1), cache=cache)
        cache.truncate(12)
        torch.testing.assert_close(model(tokens[:, 12:], cache=cache), model(tokens)[:, 12:], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="cannot truncate"):
        cache.truncate(21)


def test_more_tokens_than_the_context_are_refused_with_both_numbers(model: Transformer) -> None:
    with pytest.raises(ValueError, match="65 tokens exceed the context of 64"):
        model(torch.zeros(1, 65, dtype=torch.long))
    cache = KeyValueCache.for_model(model, capacity=10)
    with pytest.raises(ValueError, match="at most 10 tokens"):
        model(torch.zeros(1, 11, dtype=torch.long), cache=cache)


def test_one_matrix_embeds_and_scores(model: Transformer) -> None:
    assert model.output_weight is model.embedding.weight
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


def test_bf16_stays_close_to_fp32(model: Transformer) -> None:
    tokens = torch.randint(0, VOCABULARY, (2, 64))
    starts = torch.from_numpy(document_starts(tokens.numpy(), boundary_id=0))
    for document_start in (None, starts):
        exact = model(tokens, document_start=document_start)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = model(tokens, document_start=document_start)
        assert (narrow.float() - exact).norm() / exact.norm() < 0.05


def test_a_compiled_model_gives_the_same(model: Transformer) -> None:
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (2, 16)))
    starts = torch.from_numpy(document_starts(tokens.numpy(), boundary_id=0))
    # aot_eager traces forward and backward as inductor would, without its C++ compiler: a graph break fails here.
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, starts), model(tokens, starts))
