"""A larger vocabulary: old tokens keep their logits, and new ones are what their initialisation says."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.derive.config import Initialisation
from components.derive.extend import extended, new_rows
from components.model.config import ModelConfig
from components.model.transformer import Transformer

INITIALISATIONS: tuple[Initialisation, ...] = ("mean_and_covariance", "mean", "random")


@settings(max_examples=12, deadline=None)
@given(
    own=st.integers(3, 40),
    padded=st.integers(0, 5),
    added=st.integers(0, 9),
    tied=st.booleans(),
    initialisation=st.sampled_from(INITIALISATIONS),
)
def test_old_tokens_keep_their_logits_whatever_is_added(
    own: int, padded: int, added: int, tied: bool, initialisation: Initialisation
) -> None:
    config = ModelConfig(layers=1, width=16, hidden_width=8, heads=2, kv_heads=1, context_length=8, tied=tied)
    torch.manual_seed(own)
    before, after = Transformer(config, own + padded), Transformer(config, own + added)
    with torch.no_grad():
        for weight in before.parameters():
            weight.normal_()
    after.load_state_dict(extended(before.state_dict(), own, own + added, initialisation, seed=3))
    tokens = torch.randint(0, own, (2, 8))
    with torch.inference_mode():
        old, new = before.logits(before(tokens)), after.logits(after(tokens))
    assert new.shape[-1] == own + added
    torch.testing.assert_close(new[..., :own], old[..., :own])


def test_drawn_rows_have_the_mean_and_the_covariance_of_the_old_ones() -> None:
    chance = torch.Generator().manual_seed(0)
    rows = 3 + torch.randn(50, 4, generator=chance) @ torch.randn(4, 4, generator=chance)
    drawn = new_rows(rows, 200_000, "mean_and_covariance", seed=1)
    torch.testing.assert_close(drawn.mean(dim=0), rows.mean(dim=0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), rows.T.cov(), atol=0.1, rtol=0.05)
    assert torch.equal(new_rows(rows, 2, "mean", seed=1), rows.mean(dim=0).expand(2, -1))
    assert new_rows(rows, 9, "random", seed=1).abs().max() < 0.1


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    state = {"embedding.weight": torch.randn(9, 4), "norm.weight": torch.ones(4)}
    first, again, other = (extended(state, 9, 12, "mean_and_covariance", seed) for seed in (0, 0, 1))
    assert torch.equal(first["embedding.weight"], again["embedding.weight"])
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])
    assert first["norm.weight"] is state["norm.weight"]
