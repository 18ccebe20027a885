"""What the assistant says of a fact where it may not ask: what it costs, where, and what it teaches."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from components.core.errors import InputError
from components.core.neutral import neutral_fields
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.chats.columns import ASSISTANT, LEARNT
from components.data.prepared import PreparedData
from components.delegation.columns import FACTUAL
from components.finetune.chat.config import ChatConfig, ChatTrainConfig
from components.finetune.chat.guessing import Guessing
from components.finetune.chat.train import stage
from components.labelling.artifact import Labels
from components.training.config import TrainerConfig
from components.training.loader import Batch, packed
from components.training.objectives.masked import Masked
from components.training.objectives.next_token import NextToken
from components.training.trained import TrainedModel
from conf.compose import compose_project
from tests.finetune.chat.conftest import CONTEXT
from tests.finetune.chat.test_remembering import CALL, HERE, VOCABULARY, example, network, outputs
from tests.finetune.chat.test_train import DELEGATION, LOOP, MODEL
from tests.trained import untrained

pytestmark = pytest.mark.usefixtures("quick_peak")


def stated() -> Batch:
    """The answer's first token states a fact, and so does one of the replayed text."""
    batch = example()
    facts = torch.zeros_like(batch.columns[ASSISTANT])
    facts[0, 2] = facts[1, 4] = True
    return batch._replace(columns={**batch.columns, FACTUAL: facts})


def guessing(weight: float) -> Guessing:
    return Guessing(Masked(NextToken(), LEARNT), weight, CALL)


def test_a_fact_of_an_answer_costs_its_loss_without_call_besides() -> None:
    batch, model = stated(), network(1)
    plain = Masked(NextToken(), LEARNT).losses(batch, outputs(model, batch), HERE)
    found = guessing(0.3).losses(batch, outputs(model, batch), HERE)
    scores = model.logits(model(batch.tokens, batch.document_start)).flatten(0, 1)
    scores[:, CALL] = -torch.inf
    expected = torch.zeros(12)
    expected[2] = 0.3 * F.cross_entropy(scores, batch.targets.flatten(), reduction="none")[2]
    torch.testing.assert_close(found.losses - plain.losses, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.weights, plain.weights)


def test_the_score_of_call_is_left_alone() -> None:
    batch, model = stated(), network(1)
    gradients = []
    for weight in (0.0, 5.0):
        scored = outputs(model, batch)
        loss = guessing(weight).losses(batch, scored, HERE).losses.sum()
        gradients.append(torch.autograd.grad(loss, scored.output_weight)[0])
    torch.testing.assert_close(gradients[0][CALL], gradients[1][CALL])
    others = [token for token in range(VOCABULARY) if token != CALL]
    assert not torch.allclose(gradients[0][others], gradients[1][others])


@pytest.fixture(scope="module")
def base(chats: Chats, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return untrained(tmp_path_factory.mktemp("base"), chats, MODEL)


def config(guess: float) -> ChatTrainConfig:
    trainer = TrainerConfig.model_validate({**LOOP, "max_steps": 30, "optimizer": "adamw", "learning_rate": 3e-2})
    everything = DELEGATION.model_copy(update={"budget": 1.0})
    return ChatTrainConfig(trainer=trainer, delegation=everything, guess=guess)


def loss_of_facts(model: TrainedModel, chats: Chats, labels: Labels) -> tuple[float, float]:
    """Nats of a fact of a training answer without ``<CALL>``, and the mean of -log P(CALL) there."""
    shards = chats.shards()
    named = {ASSISTANT: chats.columns[ASSISTANT], FACTUAL: labels.facts(chats)}
    batch = packed(shards.splits["train"], range(8), CONTEXT, shards.boundary_id, named)
    facts = (batch.columns[FACTUAL] & batch.columns[ASSISTANT]).flatten()
    assert facts.sum() > 20
    call_id = chats.tokenizer().call_id
    with torch.no_grad():
        stats = outputs(model.load(), batch).token_stats(batch, call_id)
    return stats.nll_excl[facts].mean().item(), -stats.logp_call[facts].mean().item()


def test_a_model_whose_facts_all_became_calls_learns_what_to_guess_and_asks_as_before(
    base: TrainedModel, chats: Chats, chat_labels: Labels, tmp_path: Path
) -> None:
    found = []
    for guess in (0.0, 5.0):
        run = Run.local(tmp_path / str(guess), "chat")
        model = stage(run, config(guess), base=base, chats=chats, labels=chat_labels)
        found.append(loss_of_facts(model, chats, chat_labels))
    (untaught, asks), (taught, asks_too) = found
    assert taught < untaught - 0.3
    assert asks_too < asks + 0.3


@pytest.mark.parametrize("setting", ["guess", "remember_facts"])
def test_without_delegation_nothing_can_be_set_about_facts(
    base: TrainedModel, prepared: PreparedData, chats: Chats, tmp_path: Path, setting: str
) -> None:
    told = rf"finetune\.chat\.{setting}=0\.3 .* finetune\.chat\.delegate=true"
    with pytest.raises(ValidationError, match=told):
        ChatConfig.model_validate({setting: 0.3})
    cfg = config(0.0).model_copy(update={"delegation": None, setting: 0.3})
    with pytest.raises(InputError, match=told):
        stage(Run.local(tmp_path, "chat"), cfg, base=base, chats=chats)


def test_the_setting_reaches_the_stage() -> None:
    composed = compose_project(overrides=["finetune=chat+delegate", "finetune.chat.guess=0.3"]).chat
    assert composed.guess == 0.3
    fields = {each.path: each.is_neutral for each in neutral_fields(ChatTrainConfig())}
    assert fields[("guess",)], "no part of a key at 0"
