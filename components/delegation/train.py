"""The stage ``delegate``: prepared shards and their labels in, a model that knows when to ask out.

The artifact is laid out as that of ``pretrain``, so whatever reads one reads the other. Training starts from the
pretrained model or from scratch, and continues from a checkpoint in its folder, as pretraining does.
"""

import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import torch

from components.core.artifact import Rows
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.shards import ShardSet
from components.data.special_tokens import SpecialTokens
from components.data.tokenizer import tokenizer_digest
from components.delegation.auxiliary_models import FrozenModel, auxiliary_helper
from components.delegation.columns import FACTUAL, JUDGED
from components.delegation.config import DETAILS, DelegateConfig
from components.delegation.objective import Delegation
from components.delegation.selection import LOOKS_AT_FACTS, LOOKS_AT_HELPER, LOOKS_AT_REFERENCE
from components.delegation.step_matching import learned_share, matched_steps
from components.labelling.artifact import Labels
from components.model.checkpoint import load_model
from components.model.transformer import Transformer
from components.training.config import PretrainConfig, TrainerConfig
from components.training.loader import Batch, TokenColumns, TrainingBatches, training_order
from components.training.misspelt_words import MisspeltWords
from components.training.module import TrainingModule
from components.training.session import Session, nats_to_bits_per_byte
from components.training.trained import TrainedModel

SAMPLED_STEPS = 64
"""Steps of the run on which the share of learned tokens is counted beforehand."""


def stage(
    run: Run,
    config: DelegateConfig,
    *,
    prepared: PreparedData,
    labels: Labels,
    pretrained: TrainedModel | None = None,
) -> TrainedModel:
    """Train a model that delegates, on ``prepared`` with its ``labels``, from ``pretrained`` or from scratch.

    Raises ``InputError`` for settings that do not fit the data, the labels or the helper, ``ArtifactError`` for labels
    that are missing or of other tokens, and what ``Session.train`` raises.
    """
    session = Session.open(PretrainConfig(model=config.model, trainer=config.trainer))
    shards = prepared.shards()
    columns = open_labels(config, prepared, labels)
    settings = _trainer(config, shards, columns)
    model = _model(config, settings, prepared, shards, pretrained)
    objective = Delegation(
        config.delegation,
        settings,
        SpecialTokens.read(prepared.tokenizer_folder).call,
        shards.boundary_id,
        reference=_reference(config, prepared, pretrained),
        helper=auxiliary_helper(config.helper, config.delegation.selection, prepared, config.model.context_length)
        if config.delegation.selection in LOOKS_AT_HELPER
        else None,
    )
    module = TrainingModule(model, settings, objective, nats_to_bits_per_byte(shards))
    plan = PretrainConfig(model=config.model, trainer=settings)
    before = pretrained.tokens_seen if pretrained is not None and config.delegation.start == "checkpoint" else 0
    rate = config.delegation.misspelt
    alter = MisspeltWords(prepared.tokenizer(), rate, settings.seed) if rate else None
    details = {DETAILS: config.delegation.model_dump(mode="json"), "tokens_before": before}
    return session.train(run, plan, prepared, shards, module, "delegate", columns, details, _rows, alter)


def _rows(metrics: Mapping[str, float]) -> Rows:
    share = metrics["tokens_call_grad"] / metrics["tokens_forward"]
    return [("learnt to ask for", f"{share:.1%} of {metrics['tokens_forward']:,.0f} tokens")]


def open_labels(cfg: DelegateConfig, prepared: PreparedData, labels: Labels) -> TokenColumns:
    """The bits that go with ``prepared``; says so on stderr if the selection needs facts and there are none."""
    facts, judged = labels.facts(prepared), labels.judged(prepared)
    selection = cfg.delegation.selection
    if selection == "judge" and judged is None:
        raise InputError(
            "delegation.selection=judge needs the values that a judge labelled, and the labels have none (only the "
            "closed world comes with them): choose another selection, such as lacy"
        )
    if (selection in LOOKS_AT_FACTS or cfg.delegation.budget_of == "facts") and facts.share("train") == 0:
        print(
            f"warning: no token of the training split is labelled as a fact: training goes on, but {selection} has "
            "nothing to choose from, and the model will not learn to call",
            file=sys.stderr,
        )
    return {FACTUAL: facts} if judged is None else {FACTUAL: facts, JUDGED: judged}


def _trainer(cfg: DelegateConfig, shards: ShardSet, columns: TokenColumns) -> TrainerConfig:
    """The loop's settings, with the steps and the learning rate of this training."""
    wanted = cfg.delegation
    settings = cfg.trainer
    if wanted.start == "checkpoint":
        settings = settings.model_copy(update={"max_steps": wanted.max_steps, "learning_rate": wanted.learning_rate})
    if wanted.match == "gradient_tokens":
        share = learned_share(_first_batches(cfg, shards, columns), wanted, shards.boundary_id)
        settings = settings.model_copy(update={"max_steps": matched_steps(settings.max_steps, wanted, share)})
    return settings


def _first_batches(cfg: DelegateConfig, shards: ShardSet, columns: TokenColumns) -> Iterable[Batch]:
    trainer, length = cfg.trainer, cfg.model.context_length
    split = shards.splits["train"]
    order = training_order(split, length, trainer.batch_size, trainer.micro_batch_size, trainer.seed, ranks=1)
    batches = TrainingBatches(split, order, length, shards.boundary_id, 0, 0, SAMPLED_STEPS, columns)
    return islice(batches, SAMPLED_STEPS)


def _model(
    cfg: DelegateConfig,
    settings: TrainerConfig,
    prepared: PreparedData,
    shards: ShardSet,
    pretrained: TrainedModel | None,
) -> Transformer:
    torch.manual_seed(settings.seed)
    if cfg.delegation.start == "scratch":
        return Transformer(cfg.model, shards.vocab_size)
    folder = _started_from(pretrained)
    if tokenizer_digest(folder) != prepared.tokenizer_digest():
        raise ArtifactError(
            f"the model in {folder} has another tokenizer than the training data: pretrain on this data first"
        )
    model = load_model(folder)
    if (given := model.config.model_copy(update={"name": cfg.model.name})) != cfg.model:
        raise InputError(
            f"the pretrained model is {given!r}, but model asks for {cfg.model!r}: use the same shape for both, or "
            "delegation.start=scratch"
        )
    return model


def _reference(cfg: DelegateConfig, prepared: PreparedData, pretrained: TrainedModel | None) -> FrozenModel | None:
    if cfg.delegation.selection not in LOOKS_AT_REFERENCE:
        return None
    if not cfg.delegation.reference and pretrained is None:
        raise InputError(
            f"delegation.selection={cfg.delegation.selection} compares with a reference model, and training from "
            "scratch has none: set delegation.reference to a model folder, or delegation.start=checkpoint"
        )
    folder = Path(cfg.delegation.reference) if cfg.delegation.reference else _started_from(pretrained)
    return FrozenModel.loaded(folder, "delegation.reference", prepared.tokenizer_folder, cfg.model.context_length)


def _started_from(pretrained: TrainedModel | None) -> Path:
    if pretrained is None:
        raise InputError(
            "delegation.start=checkpoint goes on from a pretrained model, and none was given: run `lacewing pretrain` "
            "first, or set delegation.start=scratch"
        )
    return pretrained.model_folder
