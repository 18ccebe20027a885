"""What LaCy (arXiv:2602.12005) costs token by token, on a vocabulary of five tokens of which one is CALL."""

import pytest
import torch
import torch.nn.functional as F

from components.delegation.config import DelegationConfig
from components.delegation.selection import Selection, Statistics, select
from components.delegation.token_losses import counted, token_losses
from kernels.cross_entropy import TokenStats, linear_token_stats

CALL, WORDS, ROWS, WIDTH = 4, 4, 12, 3
IGNORED = -100


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(WORDS + 1, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(2)).requires_grad_()


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.arange(ROWS) % WORDS


def stats_of(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> TokenStats:
    return linear_token_stats(hidden, weight, targets, call_id=CALL, ignore_index=IGNORED)


def chosen(*delegated: int, dropped: tuple[int, ...] = (), gold: bool = False) -> Selection:
    d, x = torch.zeros(2, ROWS, dtype=torch.bool)
    d[list(delegated)], x[list(dropped)] = True, True
    return Selection(d, x, ~x if gold else ~(d | x))


def test_a_without_delegation_excluding_call_is_cross_entropy_over_the_words(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> None:
    losses = token_losses(stats_of(hidden, weight, targets), chosen(), "exclude_call")
    torch.testing.assert_close(losses, F.cross_entropy(hidden @ weight[:WORDS].T, targets, reduction="none"))
    losses.mean().backward()
    assert weight.grad is not None
    assert weight.grad[CALL].tolist() == [0.0] * WIDTH
    assert weight.grad[:WORDS].abs().min() > 0


def test_a_without_delegation_the_full_one_is_cross_entropy_over_words_and_call(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> None:
    losses = token_losses(stats_of(hidden, weight, targets), chosen(), "full")
    torch.testing.assert_close(losses, F.cross_entropy(hidden @ weight.T, targets, reduction="none"))
    ours = torch.autograd.grad(losses.mean(), weight)[0]
    theirs = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, targets), weight)[0]
    torch.testing.assert_close(ours, theirs)
    assert ours[CALL].abs().min() > 0


@pytest.mark.parametrize("normalisation", ["full", "exclude_call"])
def test_delegated_tokens_cost_minus_log_of_call_and_dropped_ones_nothing(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, normalisation: str
) -> None:
    losses = token_losses(stats_of(hidden, weight, targets), chosen(2, 7, dropped=(3, 11)), normalisation)  # type: ignore[arg-type]
    everything = torch.log_softmax(hidden @ weight.T, dim=-1)
    for row in (2, 7):
        torch.testing.assert_close(losses[row], -everything[row, CALL])
    assert losses[[3, 11]].tolist() == [0.0, 0.0]
    grad = torch.autograd.grad(losses.sum(), hidden)[0]
    assert grad[[3, 11]].abs().max() == 0


def batch(rows: int, share: float, seed: int = 0) -> Statistics:
    generator = torch.Generator().manual_seed(seed)
    everything = torch.ones(rows, dtype=torch.bool)
    fact = torch.rand(rows, generator=generator) < share
    return Statistics(torch.rand(rows, generator=generator), fact, everything, everything)


@pytest.mark.parametrize(("share", "expected"), [(0.25, 300), (0.5, 300), (0.05, None)])
def test_b_c_d_the_delegated_share_is_the_budget_within_facts_and_of_the_highest_losses(
    share: float, expected: int | None
) -> None:
    stats = batch(2000, share)
    delegated = select(stats, DelegationConfig(budget=0.15), torch.Generator()).delegated
    facts = int(stats.factual.sum())
    assert delegated.sum() == (expected if expected is not None else facts)  # (b), capped by the facts
    assert not (delegated & ~stats.factual).any()  # (c)
    kept = stats.factual & ~delegated
    if kept.any():
        assert stats.loss[delegated].min() > stats.loss[kept].max()  # (d)


@pytest.mark.parametrize("normalisation", ["full", "exclude_call"])
def test_e_the_gradient_at_a_delegated_token_does_not_depend_on_the_ground_truth(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, normalisation: str
) -> None:
    gradients = []
    for word in range(WORDS):
        changed = targets.clone()
        changed[5] = word
        losses = token_losses(stats_of(hidden, weight, changed), chosen(5), normalisation)  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad(losses[5], (hidden, weight)))
    for ours in gradients[1:]:
        for first, other in zip(gradients[0], ours, strict=True):
            torch.testing.assert_close(first, other, rtol=1e-5, atol=1e-6)  # the kernel sums the target's column apart
    kept = token_losses(stats_of(hidden, weight, targets), chosen(), normalisation)[5]  # type: ignore[arg-type]
    assert (torch.autograd.grad(kept, hidden)[0] - gradients[0][0]).abs().max() > 0.1


def test_f_ranking_leaves_call_out_and_carries_no_gradient(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> None:
    """A model that has begun to call at one token must not thereby rank it higher."""
    everything = torch.ones(ROWS, dtype=torch.bool)

    def ranked(call_row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        stats = stats_of(hidden, torch.cat([weight[:WORDS], call_row[None]]), targets)
        evidence = Statistics(stats.nll_excl.detach(), everything, everything, everything)
        return (
            select(evidence, DelegationConfig(budget=0.25), torch.Generator()).delegated,
            stats.nll_full,
            stats.logp_call.exp(),
        )

    calm, calm_full, _ = ranked(weight[CALL])
    keen, keen_full, keen_call = ranked(20 * hidden[3])  # near-certain to call at token 3, and at those like it
    assert keen_call[3] > 0.99
    assert torch.equal(calm, keen)
    assert keen_full[3] > calm_full[3] + 3  # which a ranking by the full loss would have followed
    assert not calm.requires_grad


def test_defer_teaches_both(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    losses = token_losses(stats_of(hidden, weight, targets), chosen(2, gold=True), "full")
    everything = torch.log_softmax(hidden @ weight.T, dim=-1)
    torch.testing.assert_close(losses[2], -everything[2, CALL] - everything[2, targets[2]])
    torch.testing.assert_close(losses[3], -everything[3, targets[3]])


def test_ignored_targets_cost_nothing_and_are_not_counted(hidden: torch.Tensor, weight: torch.Tensor) -> None:
    targets = torch.full((ROWS,), IGNORED)
    targets[:6] = 1
    valid = targets != IGNORED
    selection = Selection(torch.arange(ROWS) < 2, torch.arange(ROWS) == 2, valid & (torch.arange(ROWS) > 2))
    losses = token_losses(stats_of(hidden, weight, targets), selection, "full")
    assert losses[6:].abs().max() == 0
    assert torch.autograd.grad(losses.sum(), hidden)[0][6:].abs().max() == 0
    assert counted(valid, selection).tolist() == [6, 3, 2]
