"""Flow ``finetune``: from a trained model to a model for a purpose."""

from collections.abc import Callable, Mapping

from components.core.errors import InputError
from flows.catalogue import flow
from flows.finetuning.base import Base, base_model
from flows.finetuning.chat import finetune_chat
from flows.finetuning.classify import finetune_classify
from flows.finetuning.distill import finetune_distill
from flows.finetuning.preference import finetune_preference
from flows.run import FlowRun

METHODS: Mapping[str, Callable[[FlowRun, Base], object]] = {
    "chat": finetune_chat,
    "classify": finetune_classify,
    "preference": finetune_preference,
    "distill": finetune_distill,
}
"""By the name in ``finetune.method``."""


@flow(
    "make a model for a purpose of a trained one",
    example="finetune=chat",
    order=45,
    per_choice="finetune",
    own="finetune",
)
def finetune(run: FlowRun) -> None:
    """Train what is missing up to the base, then go on for the purpose that ``finetune`` names."""
    method = METHODS.get(run.config.finetune.method)
    if method is None:
        raise InputError(f"finetune.method={run.config.finetune.method} is not there: {', '.join(METHODS)} are")
    method(run, base_model(run))
