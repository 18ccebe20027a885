"""The stage ``prefer``: pairs of answers and a base in, a model that prefers the chosen ones out.

The artifact is laid out as that of ``pretrain``, so whatever reads one reads the other.
"""

from collections.abc import Mapping

import torch

from components.core.artifact import Rows
from components.core.errors import ArtifactError
from components.core.run import Run
from components.data.prepared import PreparedData
from components.data.tokenizer import tokenizer_digest
from components.finetune.adapting import adapting
from components.finetune.preference.artifact import Pairs, References
from components.finetune.preference.config import PreferConfig
from components.finetune.preference.objective import Preference
from components.model.llama_config import read_config
from components.training.config import PretrainConfig
from components.training.module import TrainingModule
from components.training.session import Session
from components.training.trained import TrainedModel


def stage(
    run: Run, config: PreferConfig, *, prepared: PreparedData, pairs: Pairs, reference: References, base: TrainedModel
) -> TrainedModel:
    """Train ``base``, which learnt from ``prepared``, on ``pairs``.

    Raises ``ArtifactError`` if they do not have one tokenizer, or were made for other windows, and what
    ``Session.train`` raises.
    """
    plan = PretrainConfig(model=read_config(base.model_folder)[0], trainer=config.trainer)
    _check(prepared, pairs, base, plan)
    session = Session.open(plan)
    torch.manual_seed(config.trainer.seed)
    model = base.load()
    merge_adapter = adapting(model, config.adapter, prepared.tokenizer_folder)
    module = TrainingModule(model, config.trainer, Preference(config.objective, pairs.call_id))
    columns = {**pairs.columns(), **reference.columns(pairs)}
    details = {"objective": config.objective.model_dump(mode="json"), "tokens_before": base.tokens_seen}
    return session.train(
        run, plan, prepared, pairs.shards(), module, "prefer", columns, details, _rows, merge_adapter=merge_adapter
    )


def _check(prepared: PreparedData, pairs: Pairs, base: TrainedModel, plan: PretrainConfig) -> None:
    digests = {prepared.tokenizer_digest(), pairs.tokenizer_digest, tokenizer_digest(base.model_folder)}
    if len(digests) > 1 or pairs.context_length != plan.model.context_length:
        raise ArtifactError(
            f"the pairs in {pairs.folder} were made for another model than {base.folder} (another tokenizer or context "
            "length), or that one was trained on other data: make the pairs again"
        )


def _rows(metrics: Mapping[str, float]) -> Rows:
    return [("prefers the chosen answer", f"{metrics['preference_accuracy']:.1%} of the pairs for validation")]
