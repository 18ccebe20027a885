"""The stage ``chat``: a trained model and packed conversations in, a model that converses out.

Only what the assistant says is learnt, and what is replayed of the pretraining text. With ``delegation``, the facts
among it may become ``<CALL>``: tuning on facts that the weights do not hold teaches invention, asking does not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from components.core.artifact import Rows
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.chats.artifact import Chats
from components.data.chats.columns import ASSISTANT, LEARNT, STATED
from components.data.special_tokens import SpecialTokens
from components.data.tokenizer import tokenizer_digest
from components.delegation.columns import FACTUAL
from components.delegation.config import DETAILS
from components.delegation.objective import Delegation
from components.delegation.selection import LOOKS_AT_HELPER, LOOKS_AT_REFERENCE
from components.finetune.adapting import adapting
from components.finetune.chat.config import ChatTrainConfig, no_facts
from components.finetune.chat.guessing import Guessing
from components.finetune.chat.remembering import Remembering
from components.finetune.chat.whole_answers import WHOLE_ANSWERS, WholeAnswers
from components.labelling.artifact import Labels
from components.model.transformer import Transformer
from components.training.config import PretrainConfig
from components.training.loader import TokenColumn, TokenColumns
from components.training.module import TrainingModule
from components.training.objectives.base import Objective
from components.training.objectives.masked import Masked
from components.training.objectives.next_token import NextToken
from components.training.session import Session
from components.training.trained import TrainedModel


def stage(
    run: Run, config: ChatTrainConfig, *, base: TrainedModel, chats: Chats, labels: Labels | None = None
) -> TrainedModel:
    """Train the model of ``base`` on ``chats``; ``labels`` say which of their tokens state facts.

    Raises ``ArtifactError`` for conversations of another vocabulary or context, ``InputError`` for a selection that
    cannot be made here, and what ``Session.train`` raises.
    """
    torch.manual_seed(config.trainer.seed)
    model = _model(base, chats)
    plan = PretrainConfig(model=model.config, trainer=config.trainer)
    session = Session.open(plan)
    special = SpecialTokens.read(chats.tokenizer_folder)
    merge_adapter = adapting(model, config.adapter, chats.tokenizer_folder)
    objective: Objective = Masked(_objective(config, chats, special.call), LEARNT)
    if config.remembers:
        weights = (config.remember, config.remember_in_answers, config.remember_facts)
        objective = Remembering(objective, base.load(), *weights, special)
    if config.guess > 0:
        objective = Guessing(objective, config.guess, special.call)
    objective = WholeAnswers(objective, special.call)
    module = TrainingModule(model, config.trainer, objective, _nats_to_bits_per_byte(chats))
    details: dict[str, Any] = {"tokens_before": base.tokens_seen}
    if config.delegation is not None:
        details[DETAILS] = config.delegation.model_dump(mode="json")
    columns = _columns(config, chats, labels)
    return session.train(
        run, plan, chats, chats.shards(), module, "chat", columns, details, _rows, merge_adapter=merge_adapter
    )


def _rows(metrics: Mapping[str, float]) -> Rows:
    rows = [
        ("tokens trained on", f"{metrics['tokens']:,.0f} at {metrics['tokens_per_second']:,.0f} tokens/s"),
        ("loss", f"{metrics['loss']:.3f} training, {metrics['validation_loss']:.3f} validation"),
        ("held-out answers word for word", f"{metrics[WHOLE_ANSWERS]:.1%}"),
    ]
    if "tokens_call_grad" in metrics:
        share = metrics["tokens_call_grad"] / metrics["tokens_forward"]
        rows.append(("learnt to ask for", f"{share:.1%} of {metrics['tokens_forward']:,.0f} tokens"))
    return rows


def _model(base: TrainedModel, chats: Chats) -> Transformer:
    if tokenizer_digest(base.model_folder) != chats.tokenizer_digest():
        raise ArtifactError(
            f"the model in {base.folder} has another vocabulary than the conversations in {chats.folder}: their tokens "
            "mean something else to it. Prepare the conversations with the tokenizer of this model"
        )
    model = base.load()
    if model.config.context_length < (needed := int(chats.details["context_length"])):
        raise ArtifactError(
            f"the conversations in {chats.folder} are packed into {needed} tokens, but the model in {base.folder} "
            f"reads {model.config.context_length}: set model.context_length as the model has it"
        )
    return model.train()


def _objective(config: ChatTrainConfig, chats: Chats, call_id: int) -> Objective:
    if config.delegation is None:
        if config.guess > 0:
            raise InputError(no_facts("guess", config.guess))
        if config.remember_facts != 1.0:
            raise InputError(no_facts("remember_facts", config.remember_facts))
        return NextToken()
    if config.delegation.selection in LOOKS_AT_REFERENCE | LOOKS_AT_HELPER:
        raise InputError(
            f"delegation.selection={config.delegation.selection} looks at another model, which reads no conversations: "
            "choose a selection that looks at labels and losses, such as lacy"
        )
    return Delegation(config.delegation, config.trainer, call_id, chats.shards().boundary_id)


def _columns(config: ChatTrainConfig, chats: Chats, labels: Labels | None) -> TokenColumns:
    columns = chats.columns
    bits = {LEARNT: columns[LEARNT], ASSISTANT: columns[ASSISTANT]}
    if config.delegation is None:
        return bits
    if labels is None:
        raise InputError("finetune.chat.delegate=true needs the labels of the conversations, and none were given")
    facts = labels.facts(chats)
    return {**bits, FACTUAL: _Facts(facts, columns[ASSISTANT], columns[STATED])}


@dataclass(frozen=True)
class _Facts:
    """The facts that the assistant states, and those of the replayed text, which have labels of their own."""

    labelled: TokenColumn
    assistant: TokenColumn
    replayed: TokenColumn
    fill: bool = False

    def slice(self, split: str, start: int, stop: int) -> Bool[np.ndarray, " tokens"]:
        labelled, assistant, replayed = (
            column.slice(split, start, stop) for column in (self.labelled, self.assistant, self.replayed)
        )
        return np.asarray(labelled & assistant | replayed, dtype=bool)


def _nats_to_bits_per_byte(chats: Chats) -> float:
    """Factor from nats per token to bits per byte, of what the assistant says in the validation split."""
    sizes = chats.details["splits"]["validation"]
    return int(sizes["assistant_tokens"]) / max(1, int(sizes["assistant_bytes"])) / math.log(2)
