"""Keeping to the base on replayed text: what it costs, where, and what it holds the model to."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from components.core.neutral import neutral_fields
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.chats.columns import ASSISTANT, LEARNT
from components.data.special_tokens import SpecialTokens
from components.delegation.columns import FACTUAL
from components.finetune.chat.config import ChatTrainConfig
from components.finetune.chat.remembering import Remembering
from components.finetune.chat.train import stage
from components.labelling.artifact import Labels
from components.model.adapters.config import AdapterConfig
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.checkpoints import StoppedError
from components.training.config import TrainerConfig
from components.training.loader import Batch, packed
from components.training.objectives.base import ForwardPass, Outputs, Ranks
from components.training.objectives.masked import Masked
from components.training.objectives.next_token import NextToken
from components.training.trained import TrainedModel
from conf.compose import compose_project
from tests.finetune.chat.conftest import CONTEXT
from tests.finetune.chat.test_train import DELEGATION, LOOP, MODEL, weights
from tests.trained import stopping_after, untrained

pytestmark = pytest.mark.usefixtures("quick_peak")

HERE = ForwardPass(0, 0, Ranks())
VOCABULARY, CALL, END = 11, 3, 4
SPECIAL = SpecialTokens(ids={}, end_of_text=0, padding=1, im_start=2, im_end=END, call=CALL)
SMALL = ModelConfig(name="tiny", layers=1, width=8, hidden_width=8, heads=2, kv_heads=1, context_length=6)


def network(seed: int) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(SMALL, VOCABULARY)


def outputs(model: Transformer, batch: Batch) -> Outputs:
    return Outputs(model(batch.tokens, batch.document_start).flatten(0, 1), model.output_weight)


def example() -> Batch:
    """A window of a conversation, and a window of text whose first token is not learnt."""
    tokens = torch.randint(5, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0))
    tokens[0, 4] = END
    said, text = torch.tensor([0, 0, 1, 1, 0, 0]).bool(), torch.tensor([0, 1, 1, 1, 1, 1]).bool()
    columns = {LEARNT: torch.stack([said, text]), ASSISTANT: torch.stack([said, text & False])}
    return Batch(tokens[:, :-1], tokens[:, 1:], torch.zeros(2, 6, dtype=torch.long), columns)


def remembering(base: Transformer, on_text: float, in_answers: float, of_facts: float = 1.0) -> Remembering:
    return Remembering(Masked(NextToken(), LEARNT), base, on_text, in_answers, of_facts, SPECIAL)


@pytest.mark.parametrize(("on_text", "in_answers"), [(2.5, 0.0), (0.0, 0.5), (2.5, 0.5)])
def test_learnt_tokens_cost_their_divergence_from_the_base_without_call(on_text: float, in_answers: float) -> None:
    batch, base, model = example(), network(0), network(1)
    plain = Masked(NextToken(), LEARNT).losses(batch, outputs(model, batch), HERE)
    found = remembering(base, on_text, in_answers).losses(batch, outputs(model, batch), HERE)
    kept = [token for token in range(VOCABULARY) if token != CALL]
    one, other = (
        net.logits(net(batch.tokens, batch.document_start)).flatten(0, 1)[:, kept].log_softmax(1)
        for net in (base, model)
    )
    divergence = F.kl_div(other, one, reduction="none", log_target=True).sum(dim=1).view(2, 6)
    weight = torch.tensor([[0, 0, in_answers, 0, 0, 0], [0, *[on_text] * 5]])  # the answer's second token is its end
    assert batch.targets[0, 3] == END
    expected = (weight * divergence).flatten()
    torch.testing.assert_close(found.losses - plain.losses, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.weights, plain.weights)


def test_facts_of_answers_may_cost_a_part_of_it() -> None:
    batch, base, model = example(), network(0), network(1)
    batch.columns[FACTUAL] = torch.ones(2, 6, dtype=torch.bool)
    plain = Masked(NextToken(), LEARNT).losses(batch, outputs(model, batch), HERE).losses
    whole, part = (
        remembering(base, 2.5, 0.5, of_facts).losses(batch, outputs(model, batch), HERE).losses - plain
        for of_facts in (1.0, 0.4)
    )
    torch.testing.assert_close(part[:6], 0.4 * whole[:6])
    assert torch.equal(part[6:], whole[6:]), "facts of replayed text cost what they did"


def test_the_gradient_leads_back_to_the_base_and_leaves_it_alone() -> None:
    batch, base, model = example(), network(0), network(1)
    objective = remembering(base, 1e6, 0.0)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    divergences = []
    for _ in range(40):
        loss = objective.losses(batch, outputs(model, batch), HERE).losses.sum()
        divergences.append(loss.item() / 1e6)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert divergences[-1] < 0.2 * divergences[0]
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())


def test_without_tokens_to_remember_the_base_is_not_asked() -> None:
    batch, model = example(), network(1)
    batch.columns[LEARNT] = batch.columns[ASSISTANT]
    unasked = network(0)
    unasked.forward = None  # type: ignore[assignment,method-assign]
    found = remembering(unasked, 1.0, 0.0).losses(batch, outputs(model, batch), HERE)
    plain = Masked(NextToken(), LEARNT).losses(batch, outputs(model, batch), HERE)
    assert torch.equal(found.losses, plain.losses)


@pytest.fixture(scope="module")
def base(chats: Chats, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return untrained(tmp_path_factory.mktemp("base"), chats, MODEL)


def config(remember: float, in_answers: float = 0.0, **loop: object) -> ChatTrainConfig:
    trainer = TrainerConfig.model_validate({**LOOP, **loop})
    return ChatTrainConfig(trainer=trainer, delegation=DELEGATION, remember=remember, remember_in_answers=in_answers)


def divergence_on_text(base: TrainedModel, model: TrainedModel, chats: Chats) -> float:
    """KL(base || model) over the replayed tokens of the training split."""
    shards, columns = chats.shards(), chats.columns
    split = shards.splits["train"]
    windows = list(range((split.n_tokens - 1) // CONTEXT))
    named = {name: columns[name] for name in (LEARNT, ASSISTANT)}
    batch = packed(split, windows, CONTEXT, shards.boundary_id, named)
    network = model.load()
    special = SpecialTokens.read(chats.tokenizer_folder)
    objective = Remembering(_Nothing(), base.load(), 1.0, 0.0, 1.0, special)  # type: ignore[arg-type]
    with torch.no_grad():
        return objective.losses(batch, outputs(network, batch), HERE).losses.sum().item()


class _Nothing:
    """An objective that costs nothing."""

    def losses(self, batch: Batch, outputs: Outputs, where: ForwardPass) -> object:
        found = NextToken().losses(batch, outputs, where)
        return found._replace(losses=torch.zeros_like(found.losses))


@pytest.mark.parametrize("adapter", [AdapterConfig(), AdapterConfig(kind="lora", rank=2)], ids=["all", "lora"])
def test_the_model_stays_nearer_to_its_base_with_all_weights_and_with_an_adapter(
    base: TrainedModel, chats: Chats, chat_labels: Labels, tmp_path: Path, adapter: AdapterConfig
) -> None:
    away = []
    for remember in (0.0, 50.0):
        cfg = config(remember, max_steps=20, learning_rate=1e-2).model_copy(update={"adapter": adapter})
        model = stage(Run.local(tmp_path / str(remember), "chat"), cfg, base=base, chats=chats, labels=chat_labels)
        away.append(divergence_on_text(base, model, chats))
    assert away[1] < 0.7 * away[0]


def test_a_stopped_and_resumed_model_is_that_of_an_uninterrupted_run(
    base: TrainedModel, chats: Chats, chat_labels: Labels, tmp_path: Path
) -> None:
    given = {"base": base, "chats": chats, "labels": chat_labels}
    whole = stage(Run.local(tmp_path / "whole", "chat"), config(50.0, 0.5), **given)  # type: ignore[arg-type]
    with stopping_after(5), pytest.raises(StoppedError, match="after step 5 of 8"):
        stage(Run.local(tmp_path / "stopped", "chat"), config(50.0, 0.5), **given)  # type: ignore[arg-type]
    resumed = stage(Run.local(tmp_path / "stopped", "chat"), config(50.0, 0.5), **given)  # type: ignore[arg-type]
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.content == resumed.content


def test_the_setting_reaches_the_stage() -> None:
    given = ["finetune=chat+delegate", "finetune.chat.remember=50", "finetune.chat.remember_in_answers=0.5"]
    config = compose_project(overrides=[*given, "finetune.chat.remember_facts=0.4"]).chat
    assert (config.remember, config.remember_in_answers, config.remember_facts) == (50, 0.5, 0.4)
    fields = {each.path: each.is_neutral for each in neutral_fields(ChatTrainConfig())}
    assert fields[("remember",)], "no part of a key at 0"
    assert fields[("remember_in_answers",)], "no part of a key at 0"
    assert fields[("remember_facts",)], "no part of a key at 1"
