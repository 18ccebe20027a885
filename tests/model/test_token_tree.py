"""Sequences that begin alike are read as if each stood alone, to the last bit whoever stands beside them."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.model.config import ModelConfig
from components.model.continuations import Scored, score_continuations
from components.model.token_tree import grown_trees, hidden_states
from components.model.transformer import Transformer

# The vocabulary is more than one block of the output layer, and the last block is not full.
SHAPE = ModelConfig(name="test", layers=2, width=32, hidden_width=64, heads=4, kv_heads=2, context_length=80)
VOCABULARY, CALL = 1100, 5

# Few different tokens, so that sequences have much in common; lengths on both sides of a block.
TOKENS = st.sampled_from([7, 8, 1050])
SEQUENCES = st.lists(st.lists(TOKENS, min_size=2, max_size=40), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(SHAPE, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)  # so that attention is sharp, and a wrong key shows
    return model


def alone(model: Transformer, sequence: Sequence[int], asked: int) -> Scored:
    """By the plain forward pass."""
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([sequence[:-1]])))[0, -asked:].double()
    call = logits.softmax(dim=-1)[:, CALL]
    logits[:, CALL] = float("-inf")
    log = logits.log_softmax(dim=-1)
    gold = log[range(asked), list(sequence[-asked:])]
    return Scored((-gold).numpy(), (gold == log.amax(dim=-1)).numpy(), log.amax(dim=-1).exp().numpy(), call.numpy())


def equal(one: Scored, other: Scored) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("nats", "likeliest", "confidence", "call")
    )


@settings(max_examples=25, deadline=None)
@given(sequences=SEQUENCES, max_nodes=st.integers(1, 200))
def test_every_token_stands_at_its_place_in_a_tree_without_repetitions(
    sequences: list[list[int]], max_nodes: int
) -> None:
    found = list(grown_trees(sequences, max_nodes))
    assert sorted(member for members, _ in found for member in members) == list(range(len(sequences)))
    for members, tree in found:
        for member, path in zip(members, tree.paths, strict=True):
            assert tree.tokens[path].tolist() == sequences[member]
            assert tree.depth[path].tolist() == list(range(len(path)))
        prefixes = {
            tuple(sequences[member][:end]) for member in members for end in range(1, len(sequences[member]) + 1)
        }
        assert len(tree.tokens) == len(prefixes)
        assert len(members) == 1 or len(tree.tokens) <= max_nodes


@settings(max_examples=15, deadline=None)
@given(sequences=SEQUENCES)
def test_hidden_states_are_those_of_the_plain_forward_pass(model: Transformer, sequences: list[list[int]]) -> None:
    ((members, tree),) = grown_trees(sequences, 10_000)
    with torch.inference_mode():
        hidden = hidden_states(model, tree)
        for member, path in zip(members, tree.paths, strict=True):
            torch.testing.assert_close(hidden[path], model(torch.tensor([sequences[member]]))[0], rtol=2e-5, atol=2e-5)


@settings(max_examples=15, deadline=None)
@given(sequences=SEQUENCES, data=st.data())
def test_scores_are_those_of_the_plain_forward_pass(
    model: Transformer, sequences: list[list[int]], data: st.DataObject
) -> None:
    asked = [data.draw(st.integers(1, len(sequence) - 1)) for sequence in sequences]
    for found, sequence, count in zip(
        score_continuations(model, sequences, asked, CALL), sequences, asked, strict=True
    ):
        expected = alone(model, sequence, count)
        assert found.nats == pytest.approx(expected.nats, abs=2e-5)
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-5)
        assert found.call == pytest.approx(expected.call, abs=1e-5)
        assert found.likeliest.tolist() == expected.likeliest.tolist()


@settings(max_examples=15, deadline=None)
@given(sequences=SEQUENCES, batch_tokens=st.integers(1, 300), threads=st.integers(1, 3))
def test_scores_have_the_same_bits_for_any_batch_size_company_and_number_of_threads(
    model: Transformer, sequences: list[list[int]], batch_tokens: int, threads: int
) -> None:
    asked = [len(sequence) - 1 for sequence in sequences]
    together = score_continuations(model, sequences, asked, CALL)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        in_batches = score_continuations(model, sequences, asked, CALL, batch_tokens)
    finally:
        assert torch.get_num_threads() == threads
        torch.set_num_threads(before)
    (first,) = score_continuations(model, sequences[:1], asked[:1], CALL)
    assert all(map(equal, together, in_batches))
    assert equal(first, together[0])


def test_long_sequences_fill_the_context(model: Transformer) -> None:
    sequence = [int(token) for token in np.random.default_rng(0).integers(6, VOCABULARY, SHAPE.context_length + 1)]
    (found,) = score_continuations(model, [sequence], [len(sequence) - 1], CALL)
    assert found.nats == pytest.approx(alone(model, sequence, len(sequence) - 1).nats, abs=5e-5)
    assert score_continuations(model, [], [], CALL) == []
