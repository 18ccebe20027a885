"""The stage ``teach``: what a teacher expects at every token of the shards, once, as columns.

It reads the windows that the student will read, so it knows what the student can know. Of its distribution the ``k``
likeliest tokens are kept: six bytes each. Interrupted, it begins again: it is one forward pass over the text.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from components.core.errors import InputError
from components.core.run import Run
from components.data.columns import ColumnsWriter, ColumnType
from components.data.prepared import PreparedData
from components.data.shards import ShardSet
from components.delegation.auxiliary_models import FrozenModel
from components.evaluation.autocast import autocast, scoring_device
from components.evaluation.progress import progress
from components.finetune.distill.artifact import TEACHER_IDS, TEACHER_LOGPROBS, Teaching
from components.finetune.distill.config import TeachConfig
from components.training.loader import ValidationBatches

_ROWS = 1024  # whose logits are in memory at once
Labels = Mapping[str, Shaped[np.ndarray, "tokens k"]]


def stage(run: Run, config: TeachConfig, *, prepared: PreparedData) -> Teaching:
    """Ask ``config.teacher`` about every token of ``prepared``.

    Raises ``InputError`` for a teacher that is not there, has another tokenizer or a shorter context, and for more top
    tokens than there are.
    """
    teacher = _teacher(config, prepared)
    shards = prepared.shards()
    began = time.perf_counter()
    columns = {
        TEACHER_IDS: ColumnType(dtype="int32", width=config.top_k),
        TEACHER_LOGPROBS: ColumnType(dtype="float16", width=config.top_k, fill=-16.0),
    }
    held = 0.0
    with (
        autocast(teacher.model.output_weight.device, config.precision),
        ColumnsWriter(run.folder / Teaching.COLUMNS, columns) as writer,
    ):
        for split in shards.splits:
            # No window predicts the first token of a split.
            writer.append(split, {name: np.full((1, type.width), type.fill) for name, type in columns.items()})
            for labels in _labels(run, config, teacher, shards, split):
                writer.append(split, labels)
                held += float(np.exp(labels[TEACHER_LOGPROBS].astype(np.float64)).sum())
        writer.finish(shards)
    tokens = sum(split.n_tokens - 1 for split in shards.splits.values())
    metrics = {"tokens": float(tokens), "held": held / tokens, "seconds": time.perf_counter() - began}
    details = {"context_length": config.context_length, "call_id": teacher.call_id, "top_k": config.top_k}
    row = f"{held / tokens:.1%} of its probability in {config.top_k} tokens of each place"
    return run.seal(metrics, details, [("teacher", row)], view=Teaching)


def _teacher(cfg: TeachConfig, prepared: PreparedData) -> FrozenModel:
    what = "finetune.distill.teacher"
    if not cfg.teacher:
        raise InputError(f"{what} names no model: give a registered one, such as champion, or the folder of one")
    teacher = FrozenModel.loaded(Path(cfg.teacher), what, prepared.tokenizer_folder, cfg.context_length)
    if cfg.top_k >= teacher.model.vocab_size:
        raise InputError(
            f"finetune.distill.top_k={cfg.top_k} leaves no rest of a vocabulary of {teacher.model.vocab_size} tokens, "
            "<CALL> left out: lower it; 8 are enough for most"
        )
    teacher.model.to(scoring_device(cfg.device))
    return teacher


@torch.inference_mode()
def _labels(run: Run, cfg: TeachConfig, teacher: FrozenModel, shards: ShardSet, name: str) -> Iterator[Labels]:
    """The columns of one split, batch after batch."""
    split, model = shards.splits[name], teacher.model
    device, left = model.output_weight.device, split.n_tokens - 1
    windows = -(-left // cfg.context_length)
    if not windows:
        return
    batches = ValidationBatches(split, cfg.context_length, shards.boundary_id, cfg.batch_windows, windows)
    with progress(run, f"asking the teacher about {name}", 0.0, 1.0) as report:
        for done, batch in enumerate(batches, 1):
            hidden = model(batch.tokens.to(device), batch.document_start.to(device)).flatten(0, 1)[:left]
            parts = [top_tokens(model.logits(rows), cfg.top_k, teacher.call_id) for rows in hidden.split(_ROWS)]
            ids, logprobs = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
            yield {TEACHER_IDS: ids.numpy(), TEACHER_LOGPROBS: logprobs.numpy()}
            left -= len(hidden)
            report(done / len(batches.batches))


def top_tokens(
    logits: Float[Tensor, "rows vocab"], top_k: int, call_id: int
) -> tuple[Int[Tensor, "rows k"], Float[Tensor, "rows k"]]:
    """The likeliest tokens and their log-probabilities, ``<CALL>`` left out of the softmax."""
    logits = logits.float()
    logits[:, call_id] = -torch.inf
    values, ids = logits.log_softmax(dim=-1).topk(top_k, dim=-1)
    return ids, values
