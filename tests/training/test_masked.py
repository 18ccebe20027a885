"""A mask over any objective: the mean over the targets that it names, and nothing else."""

import torch

from components.training.loader import Batch
from components.training.objectives.base import ForwardPass, Outputs, Ranks
from components.training.objectives.masked import Masked
from components.training.objectives.next_token import NextToken

VOCABULARY, WIDTH = 11, 4
HERE = ForwardPass(0, 0, Ranks())


def example() -> tuple[Batch, Outputs]:
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (2, 7), generator=chance)
    mask = torch.rand(2, 6, generator=chance) < 0.5
    batch = Batch(tokens[:, :-1], tokens[:, 1:], torch.zeros(2, 6, dtype=torch.long), {"said": mask})
    hidden = torch.randn(12, WIDTH, generator=chance, requires_grad=True)
    return batch, Outputs(hidden, torch.randn(VOCABULARY, WIDTH, generator=chance))


def test_the_loss_is_the_mean_over_the_targets_that_the_column_names() -> None:
    batch, outputs = example()
    mask = batch.columns["said"].flatten()
    losses, weights = Masked(NextToken(), "said").losses(batch, outputs, HERE)
    logits = outputs.hidden @ outputs.output_weight.T
    expected = torch.nn.functional.cross_entropy(logits, batch.targets.flatten(), reduction="none")
    torch.testing.assert_close(losses[mask], expected[mask])
    assert losses[~mask].tolist() == [0.0] * int((~mask).sum())
    assert weights.tolist() == mask.float().tolist()
    losses.sum().backward()
    assert outputs.hidden.grad is not None
    assert outputs.hidden.grad[~mask].abs().sum() == 0


def test_validation_sees_the_same_targets() -> None:
    batch, outputs = example()
    objective = Masked(NextToken(), "said")
    objective.start_validation(torch.device("cpu"))
    objective.validate(batch, outputs, HERE)
    losses, weights = objective.losses(batch, outputs, HERE)
    expected = (losses.sum() / weights.sum()).item()
    assert abs(objective.validation_metrics(Ranks())["validation_loss"] - expected) < 1e-6
