"""The stage ``distill``: shards in, and what a teacher makes of them if they are not its own text; a student out.

The student goes on from a trained model, or starts from scratch. The artifact is laid out as that of ``pretrain``.
"""

from collections.abc import Mapping

import torch

from components.core.artifact import Rows
from components.core.errors import ArtifactError, InputError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.tokenizer import tokenizer_digest
from components.finetune.adapting import adapting
from components.finetune.distill.artifact import ChosenTexts, Teaching
from components.finetune.distill.config import DistillStageConfig
from components.finetune.distill.objective import Distillation
from components.model.llama_config import read_config
from components.model.transformer import Transformer
from components.training.config import PretrainConfig
from components.training.module import TrainingModule
from components.training.objectives.next_token import NextToken
from components.training.session import Session, nats_to_bits_per_byte
from components.training.trained import TrainedModel


def stage(
    run: Run,
    config: DistillStageConfig,
    *,
    prepared: PreparedData,
    teaching: Teaching | None = None,
    chosen: ChosenTexts | None = None,
    base: TrainedModel | None = None,
) -> TrainedModel:
    """Train ``base``, or without it a new model, on ``prepared`` and on what ``teaching`` says of it.

    Without ``teaching`` the text alone is learnt; that of ``chosen``, written by a teacher, in the place of
    ``prepared``.

    Raises ``InputError`` for an adapter without a base, ``ArtifactError`` if the teacher has read other windows
    than the student will, or ``base`` has another tokenizer, and what ``Session.train`` raises.
    """
    if base is None and config.adapter.kind != "none":
        raise InputError(
            f"finetune.adapter.kind={config.adapter.kind} adapts a base, and finetune.distill.start=scratch has none: "
            "leave out one of them"
        )
    shape = config.model if base is None else read_config(base.model_folder)[0]
    plan = PretrainConfig(model=shape, trainer=config.trainer)
    _check(prepared, teaching, base, plan)
    session = Session.open(plan)
    shards = (chosen or prepared).shards()
    torch.manual_seed(config.trainer.seed)
    student = Transformer(shape, shards.vocab_size) if base is None else base.load()
    merge_adapter = adapting(student, config.adapter, prepared.tokenizer_folder)
    objective = NextToken() if teaching is None else Distillation(config.objective, teaching.call_id)
    module = TrainingModule(student, config.trainer, objective, nats_to_bits_per_byte(shards))
    details = {
        **({} if teaching is None else {"objective": config.objective.model_dump(mode="json")}),
        "tokens_before": 0 if base is None else base.tokens_seen,
    }
    columns = {} if teaching is None else teaching.columns(shards)
    return session.train(
        run, plan, prepared, shards, module, "distill", columns, details, _rows, merge_adapter=merge_adapter
    )


def _check(prepared: PreparedData, teaching: Teaching | None, base: TrainedModel | None, plan: PretrainConfig) -> None:
    if base is not None and tokenizer_digest(base.model_folder) != prepared.tokenizer_digest():
        raise ArtifactError(f"the model in {base.folder} has another tokenizer than the training data")
    if teaching is not None and teaching.context_length != plan.model.context_length:
        raise ArtifactError(
            f"the teacher has read windows of {teaching.context_length} tokens, the student reads "
            f"{plan.model.context_length}: ask the teacher again"
        )


def _rows(metrics: Mapping[str, float]) -> Rows:
    apart = f", {metrics['divergence']:.3f} from the teacher" if "divergence" in metrics else ""
    return [("validation", f"{metrics['validation_loss']:.3f} nats from the text{apart}")]
