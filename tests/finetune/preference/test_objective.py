"""The losses against their formulas, computed with all logits in double precision."""

import math

import pytest
import torch
from torch import Tensor

from components.finetune.preference.artifact import ANSWER, REFERENCE, Pairs, References
from components.finetune.preference.config import ObjectiveConfig
from components.finetune.preference.log_probabilities import pair_scores
from components.finetune.preference.objective import Preference
from components.training.loader import IGNORED, Batch
from components.training.objectives.base import ForwardPass, Outputs, Ranks

WHERE = ForwardPass(0, 0, Ranks())
CALL = 4
# Two windows: two pairs in the first, one in the second, between prompts, boundaries and padding.
MARKS = [[0, 1, 1, 0, -1, -1, -1, 2, 2, 0, -2, -2], [0, 0, 1, 1, 1, 1, 0, 0, -1, -1, 0, 0]]
PAIRS = [(0, 1), (0, 2), (1, 1)]
REFERENCES = torch.tensor([[-3.0, -2.5], [-1.0, -4.0], [-6.0, -6.5]], dtype=torch.float64)


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    marks = torch.tensor(MARKS, dtype=torch.int16)
    targets = torch.randint(5, 30, marks.shape)
    targets[1, -1] = IGNORED
    reference = torch.zeros(marks.shape)
    for (row, pair), values in zip(PAIRS, REFERENCES, strict=True):
        for mark, value in ((pair, values[0]), (-pair, values[1])):
            reference[row, (marks[row] == mark).nonzero()[-1]] = value.float()
    return Batch(targets, targets, torch.zeros_like(targets), {ANSWER: marks, REFERENCE: reference})


@pytest.fixture
def outputs(batch: Batch) -> Outputs:
    torch.manual_seed(1)
    return Outputs(torch.randn(batch.targets.numel(), 8), torch.randn(30, 8))


def answers(batch: Batch, outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Log-probability and tokens of both answers of every pair, one after the other."""
    logits = outputs.hidden.double() @ outputs.output_weight.double().T
    logits[:, CALL] = -math.inf
    logp = logits.log_softmax(-1).view(*batch.targets.shape, -1)
    sums, tokens = [], []
    for row, pair in PAIRS:
        places = [(batch.columns[ANSWER][row] == mark).nonzero()[:, 0] for mark in (pair, -pair)]
        sums.append(torch.stack([logp[row, place, batch.targets[row, place]].sum() for place in places]))
        tokens.append(torch.tensor([len(place) for place in places], dtype=torch.float64))
    return torch.stack(sums), torch.stack(tokens)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_the_loss_is_that_of_the_papers(batch: Batch, outputs: Outputs, loss: str, per_token: bool) -> None:
    beta = 0.3
    logp, tokens = answers(batch, outputs)
    policy, base = (logp / tokens, REFERENCES / tokens) if per_token else (logp, REFERENCES)
    # As in TRL's DPOTrainer: pi_logratios - ref_logratios; its ipo takes means over tokens, which is per_token here.
    logits = (policy[:, 0] - policy[:, 1]) - (base[:, 0] - base[:, 1])
    wanted = torch.log1p(torch.exp(-beta * logits)) if loss == "dpo" else (logits - 1 / (2 * beta)) ** 2
    config = ObjectiveConfig.model_validate({"loss": loss, "beta": beta, "per_token": per_token})
    losses, weights = Preference(config, CALL).losses(batch, outputs, WHERE)
    torch.testing.assert_close(losses[weights > 0].double(), wanted, rtol=1e-5, atol=1e-5)
    assert weights.sum() == len(PAIRS)


def test_the_likelihood_of_the_chosen_answer_may_be_added(batch: Batch, outputs: Outputs) -> None:
    logp, tokens = answers(batch, outputs)
    plain, added = (
        Preference(ObjectiveConfig(chosen_weight=weight), CALL).losses(batch, outputs, WHERE).losses.sum().double()
        for weight in (0.0, 2.0)
    )
    torch.testing.assert_close(added - plain, -2 * (logp / tokens)[:, 0].sum(), rtol=1e-5, atol=1e-5)


def test_what_is_no_answer_changes_nothing_and_gets_no_gradient(batch: Batch, outputs: Outputs) -> None:
    hidden = outputs.hidden.clone().requires_grad_()
    Preference(ObjectiveConfig(), CALL).losses(
        batch, Outputs(hidden, outputs.output_weight), WHERE
    ).losses.sum().backward()
    assert hidden.grad is not None
    moved = hidden.grad.abs().sum(1).view(batch.targets.shape) > 0
    assert torch.equal(moved, batch.columns[ANSWER] != 0)


def test_a_batch_without_pairs_costs_nothing(batch: Batch, outputs: Outputs) -> None:
    empty = batch._replace(columns={name: torch.zeros_like(values) for name, values in batch.columns.items()})
    losses, weights = Preference(ObjectiveConfig(), CALL).losses(empty, outputs, WHERE)
    assert losses.sum() == weights.sum() == 0


def test_validation_counts_pairs(batch: Batch, outputs: Outputs) -> None:
    logp, _ = answers(batch, outputs)
    objective = Preference(ObjectiveConfig(), CALL)
    objective.start_validation(torch.device("cpu"))
    for _ in range(2):
        objective.validate(batch, outputs, WHERE)
    found = objective.validation_metrics(Ranks())
    margins, gains = logp[:, 0] - logp[:, 1], (logp - REFERENCES)[:, 0] - (logp - REFERENCES)[:, 1]
    assert found["preference_accuracy"] == pytest.approx((margins > 0).double().mean().item())
    assert found["reward_accuracy"] == pytest.approx((gains > 0).double().mean().item())
    assert found["gain"] == pytest.approx(gains.mean().item(), rel=1e-4)


def test_the_column_holds_what_the_base_makes_of_every_answer(pairs: Pairs, reference: References) -> None:
    columns = {**pairs.columns(), **reference.columns(pairs)}
    for split, shard in pairs.shards().splits.items():
        marks, values = (columns[name].slice(split, 0, shard.n_tokens) for name in (ANSWER, REFERENCE))
        assert (values != 0).sum() == 2 * len(pairs.records(split))
        assert (marks[values != 0] != 0).all()
        assert (values <= 0).all()


def test_a_base_that_was_asked_has_gained_nothing(batch: Batch, outputs: Outputs) -> None:
    own = pair_scores(batch, outputs, CALL)
    reference = torch.zeros_like(batch.columns[REFERENCE])
    for (row, pair), place in zip(PAIRS, own.valid.nonzero()[:, 0].tolist(), strict=True):
        for side, mark in enumerate((pair, -pair)):
            reference[row, (batch.columns[ANSWER][row] == mark).nonzero()[0]] = own.log_probability[place, side]
    again = pair_scores(batch._replace(columns={**batch.columns, REFERENCE: reference}), outputs, CALL)
    torch.testing.assert_close(again.gain(False), torch.zeros_like(again.gain(False)))
