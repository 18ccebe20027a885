import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from components.finetune.classify.columns import LABEL, TEXT, UNLABELLED
from components.finetune.classify.config import HeadConfig, Kind, Pooling
from components.finetune.classify.head import Head
from components.finetune.classify.labels import LabelSet
from components.finetune.classify.objective import LabelCrossEntropy
from components.training.loader import Batch
from components.training.objectives.base import ForwardPass, Outputs, Ranks

WHERE = ForwardPass(3, 0, Ranks())
# Two texts, at positions 1 to 3 and 5 to 6; the boundaries stand at 0 and 4, and a text that was never one at 7.
STARTS = torch.tensor([[0, 0, 0, 0, 4, 4, 4, 7]])
ENDS = {3: 1, 6: 2}


def labels(kind: Kind = "single", pooling: Pooling = "mean") -> LabelSet:
    return LabelSet(kind=kind, labels=["a", "b", "c"], pooling=pooling)


def batch(kind: Kind) -> Batch:
    column = torch.full((1, 8), UNLABELLED, dtype=torch.int16)
    for place, label in ENDS.items():
        column[0, place] = label
    if kind == "multi":
        column = torch.where(column[..., None] < 0, UNLABELLED, (column[..., None] == torch.arange(3)).short())
    return Batch(torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, dtype=torch.long), STARTS, {LABEL: column})


def objective(kind: Kind = "single", pooling: Pooling = "mean", **settings: object) -> LabelCrossEntropy:
    torch.manual_seed(0)
    head = Head(4, labels(kind, pooling))
    torch.nn.init.normal_(head.weight)
    config = HeadConfig.model_validate({"dropout": 0.0, "label_smoothing": 0.0, **settings})
    return LabelCrossEntropy(head, config, torch.tensor([1.0, 2.0, 3.0]), seed=0)


def hidden() -> Float[Tensor, "rows width"]:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def expected(one: LabelCrossEntropy, pooling: Pooling) -> Float[Tensor, "texts labels"]:
    """Scores of the two texts."""
    states = hidden()
    read = [states[1:4].mean(0), states[5:7].mean(0)] if pooling == "mean" else [states[3], states[6]]
    return one.head(torch.stack(read))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_loss_is_the_weighted_cross_entropy_of_each_text(pooling: Pooling) -> None:
    one = objective(pooling=pooling)
    found = one.losses(batch("single"), Outputs(hidden(), torch.zeros(0)), WHERE)
    wanted = F.cross_entropy(expected(one, pooling), torch.tensor([1, 2]), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(found.losses.sum() / found.weights.sum(), wanted)
    assert found.weights.tolist() == [0, 0, 0, 2, 0, 0, 3, 0]


def test_with_several_labels_it_is_the_mean_over_the_labels() -> None:
    one = objective("multi")
    found = one.losses(batch("multi"), Outputs(hidden(), torch.zeros(0)), WHERE)
    truth = torch.tensor([[0.0, 1, 0], [0, 0, 1]])
    wanted = F.binary_cross_entropy_with_logits(expected(one, "mean"), truth, pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(found.losses.sum() / found.weights.sum(), wanted)
    assert found.weights.tolist() == [0, 0, 0, 1, 0, 0, 1, 0]


def test_with_several_labels_smoothing_moves_yes_and_no_towards_each_other() -> None:
    one = objective("multi", label_smoothing=0.2)
    found = one.losses(batch("multi"), Outputs(hidden(), torch.zeros(0)), WHERE)
    truth = torch.tensor([[0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
    wanted = F.binary_cross_entropy_with_logits(expected(one, "mean"), truth, pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(found.losses.sum() / found.weights.sum(), wanted)


def test_dropout_and_smoothing_depend_on_the_step_alone_and_end_with_the_training() -> None:
    one = objective(dropout=0.5, label_smoothing=0.1)
    outputs = Outputs(hidden(), torch.zeros(0))
    first, again = (one.losses(batch("single"), outputs, WHERE).losses for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, one.losses(batch("single"), outputs, WHERE._replace(step=4)).losses)
    one.eval()
    plain = objective().eval().losses(batch("single"), outputs, WHERE).losses
    assert torch.equal(one.losses(batch("single"), outputs, WHERE).losses, plain)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_validation_counts_texts_and_labels(kind: Kind) -> None:
    one = objective(kind).eval()
    one.start_validation(torch.device("cpu"))
    for _ in range(2):
        one.validate(batch(kind), Outputs(hidden(), torch.zeros(0)), WHERE)
    found = one.validation_metrics(Ranks())
    scores = expected(one, "mean")
    said = scores > 0 if kind == "multi" else torch.arange(3) == scores.argmax(-1, keepdim=True)
    true = torch.arange(3) == torch.tensor([[1], [2]])
    both, either = (said & true).sum(0), said.sum(0) + true.sum(0)
    assert found["validation_accuracy"] == (said == true).all(1).float().mean()
    assert found["validation_macro_f1"] == pytest.approx(float((2 * both / either.clamp(min=1)).mean()))


def test_the_validation_adds_the_scores_of_the_n_grams_and_the_training_does_not() -> None:
    of_texts = torch.tensor([[0.0, 0.0, 9.0], [0.0, 9.0, 0.0]])  # by number; the first text in the window is number 1
    one = objective()
    both = LabelCrossEntropy(one.head, one.config, one.class_weights, 0, of_texts).eval()
    column = torch.full((1, 8), UNLABELLED, dtype=torch.int32)
    column[0, 3], column[0, 6] = 1, 0
    given = batch("single")
    given = given._replace(columns={**given.columns, TEXT: column})
    outputs = Outputs(hidden(), torch.zeros(0))
    both.start_validation(torch.device("cpu"))
    both.validate(given, outputs, WHERE)
    found = both.validation_metrics(Ranks())
    scores = expected(one, "mean") + of_texts.flip(0)
    wanted = F.cross_entropy(scores, torch.tensor([1, 2]), one.class_weights)
    assert found["validation_loss"] == pytest.approx(wanted.item())
    assert found["validation_accuracy"] == 1.0
    assert torch.equal(both.losses(given, outputs, WHERE).losses, one.losses(given, outputs, WHERE).losses)
