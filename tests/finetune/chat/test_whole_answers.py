"""The share of held-out answers that greedy decoding gives word for word."""

import pytest
import torch
from torch import Tensor

from components.data.chats.columns import ASSISTANT
from components.delegation.columns import FACTUAL
from components.finetune.chat.whole_answers import WHOLE_ANSWERS, WholeAnswers, numbered
from components.model.config import ModelConfig
from components.model.generate import Sampling, generate
from components.model.transformer import Transformer
from components.training.loader import IGNORED, Batch
from components.training.objectives.base import ForwardPass, Outputs, Ranks
from components.training.objectives.next_token import NextToken

VOCABULARY, CALL = 24, 4


def share(batches: list[tuple[Batch, Outputs]]) -> float | None:
    objective = WholeAnswers(NextToken(), CALL)
    objective.start_validation(torch.device("cpu"))
    for batch, outputs in batches:
        objective.validate(batch, outputs, ForwardPass(-1, 0, Ranks()))
    metrics = objective.validation_metrics(Ranks())
    assert "validation_loss" in metrics, "the objective that is wrapped reports too"
    return metrics.get(WHOLE_ANSWERS)


def batch(targets: Tensor, **columns: Tensor) -> Batch:
    return Batch(torch.zeros_like(targets), targets, torch.zeros_like(targets, dtype=torch.int32), columns)


def saying(tokens: Tensor, asks: Tensor | None = None) -> Outputs:
    """A model that says ``tokens``, and where ``asks`` gives more weight to ``<CALL>``."""
    logits = 5.0 * torch.nn.functional.one_hot(tokens.flatten(), VOCABULARY).float()
    if asks is not None:
        logits[:, CALL] = torch.where(asks.flatten(), 9.0, -9.0)
    return Outputs(logits, torch.eye(VOCABULARY))


def test_one_wrong_token_makes_an_answer_wrong_and_what_others_say_does_not_count() -> None:
    targets = torch.tensor([[9, 5, 6, 9, 7, 8], [7, 7, 9, 9, 9, 9]])
    said = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0]]).bool()
    predicted = targets.clone()
    predicted[0, 0] = predicted[1, 3] = 11  # the user's words
    assert share([(batch(targets, assistant=said), saying(predicted))]) == 1.0
    predicted[0, 4] = 11
    assert share([(batch(targets, assistant=said), saying(predicted))]) == pytest.approx(2 / 3)


def test_asking_is_right_where_a_fact_is_stated_and_nowhere_else() -> None:
    targets = torch.tensor([[5, 6, 7], [5, 6, 7]])
    said = torch.ones_like(targets).bool()
    factual = torch.tensor([[0, 1, 0], [0, 1, 0]]).bool()
    predicted = torch.tensor([[5, 11, 7], [11, 6, 7]])
    asks = torch.tensor([[0, 1, 0], [1, 0, 0]]).bool()
    given = {ASSISTANT: said, FACTUAL: factual}
    assert share([(batch(targets, **given), saying(predicted, asks))]) == 0.5
    assert share([(batch(targets, assistant=said), saying(predicted, asks))]) == 0.0, "no labels, no asking"


def test_batches_are_counted_together_and_no_answers_are_no_score() -> None:
    targets = torch.tensor([[5, 6]])
    said = torch.ones_like(targets).bool()
    right, wrong = saying(targets), saying(targets + 1)
    assert share([(batch(targets, assistant=said), right)] * 3 + [(batch(targets, assistant=said), wrong)]) == 0.75
    assert share([(batch(targets, assistant=~said), right)]) is None
    ignored = torch.full_like(targets, IGNORED)
    assert share([(batch(targets, assistant=said), right), (batch(ignored, assistant=said), right)]) == 1.0


def test_a_whole_answer_is_what_greedy_decoding_writes() -> None:
    torch.manual_seed(0)
    shape = ModelConfig(name="tiny", layers=1, width=16, hidden_width=32, heads=2, kv_heads=1, context_length=32)
    model = Transformer(shape, VOCABULARY).eval()
    prompt = [0, 7, 8]
    greedy = Sampling(max_tokens=12, temperature=0.0, suppress_ids=frozenset({CALL}))
    written = [step.token for step in generate(model, prompt, greedy)]
    text = torch.tensor([[*prompt, *written]])
    said = torch.arange(text.shape[1] - 1)[None] >= len(prompt) - 1
    for changed in (False, True):
        if changed:
            text[0, -1] = (text[0, -1] + 1) % CALL
        with torch.no_grad():
            hidden = model(text[:, :-1]).flatten(0, 1)
        got = share([(batch(text[:, 1:], assistant=said), Outputs(hidden, model.output_weight))])
        assert got == float(not changed)


def test_an_answer_ends_where_another_speaks_and_at_the_end_of_a_window() -> None:
    said = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1]]).bool()
    assert numbered(said).tolist() == [[1, 1, 0, 2], [3, 0, 0, 4]]
